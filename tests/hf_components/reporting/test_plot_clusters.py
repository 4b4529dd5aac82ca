"""The plot of clusters."""

import numpy as np
import pytest
from PIL import Image

from hf_components.reporting import plots
from hf_components.reporting.plots import drawn_points, plot_clusters

pytestmark = pytest.mark.unit


def test_every_cluster_has_its_own_colour(tmp_path):
    points = np.random.default_rng(0).normal(size=(6000, 2))
    names = [f"cluster {i % 9}" for i in range(6000)]
    drawn = drawn_points(6000)
    plot_clusters(tmp_path / "clusters.png", points[drawn], drawn, names, np.repeat(["a", "b"], 3000), "title")
    image = Image.open(tmp_path / "clusters.png")
    assert image.size == (1440, 768)
    assert len(image.convert("RGB").getcolors(2**20)) > 100


def test_the_legend_counts_all_utterances_though_some_are_drawn(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(plots.Figure, "savefig", lambda self, *_, **__: seen.update(axes=self.axes))
    drawn = drawn_points(9000)
    assert len(drawn) == len(set(drawn)) == 5000
    groups = np.repeat(["a", "b"], [6000, 3000])
    plot_clusters(tmp_path / "x.png", np.zeros((5000, 2)), drawn, ["one"] * 9000, groups)
    assert [text.get_text() for text in seen["axes"][1].get_legend().get_texts()] == ["a (6000)", "b (3000)"]
    assert sum(len(points.get_offsets()) for points in seen["axes"][1].collections) == 5000
