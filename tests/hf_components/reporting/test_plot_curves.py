"""The plot of curves."""

import numpy as np
import pytest

from hf_components.reporting import plots
from hf_components.reporting.plots import PALETTE, plot_curves

pytestmark = pytest.mark.unit


@pytest.fixture
def drawn(monkeypatch):
    """Lines of the figure that is saved."""
    lines = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda self, *_, **__: lines.extend(self.axes[0].lines))
    return lines


def test_a_curve_of_a_single_point_can_be_seen(drawn):
    plot_curves("x.png", {"before": [20.0], "long": [1.0] * 50}, "sentences", "WER (%)", "Voices")
    assert drawn[0].get_marker() == "o"
    assert drawn[1].get_marker() == ""


def test_values_that_are_missing_leave_no_gap(drawn):
    plot_curves("x.png", {"loss": [3.0, np.nan, 1.0]}, "epoch", "loss", "Training", x=[0.5, 1.0, 1.5])
    assert drawn[0].get_xydata().tolist() == [[0.5, 3.0], [1.5, 1.0]]


def test_more_curves_than_colours_differ_by_their_lines(drawn):
    plot_curves("x.png", {str(i): [1.0] * 20 for i in range(2 * len(PALETTE))}, "x", "y", "title")
    looks = {(line.get_color(), line.get_linestyle()) for line in drawn}
    assert len(looks) == len(drawn) == 2 * len(PALETTE)


def test_whole_numbers_have_no_ticks_between_them(drawn):
    plot_curves("x.png", {"before": [20.0, 19.0]}, "sentences", "WER (%)", "Voices", x=[5, 10])
    assert drawn[0].axes.get_xticks().tolist() == [5, 10]
