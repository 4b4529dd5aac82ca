"""Segmenting takes no more memory for more minutes."""

import pytest

from benchmarks import segmentation_scale

pytestmark = pytest.mark.slow


def test_memory_is_flat(capsys):
    found = segmentation_scale.main(["--minutes", "5", "60"])
    assert found[60]["segments"] == pytest.approx(12 * found[5]["segments"], rel=0.1)
    assert found[60]["growth"] < 1.1
    assert found[60]["peak_mib"] - found[60]["modules_mib"] < 115  # half of what an hour of float32 at 16 kHz takes
    assert "x real time" in capsys.readouterr().out
