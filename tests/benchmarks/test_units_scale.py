"""Segments, units and motifs take no more memory for more minutes."""

import pytest

from benchmarks import units_scale

pytestmark = pytest.mark.slow


def test_memory_is_flat(capsys):
    found = units_scale.main(["--minutes", "5", "60"])["segments"]
    assert found[60]["segments"] == pytest.approx(12 * found[5]["segments"], rel=0.1)
    assert found[60]["growth"] < 1.1
    assert found[60]["peak_mib"] - found[60]["modules_mib"] < 115  # half of what an hour of float32 at 16 kHz takes
    assert "x real time" in capsys.readouterr().out


def test_every_step_runs():
    found = units_scale.main(["--minutes", "2", "--steps", *units_scale.STEPS])
    assert list(found) == list(units_scale.STEPS)
    assert all(
        run["disk_mib"] > 0 and run["peak_mib"] > run["modules_mib"] for ((_, run),) in map(dict.items, found.values())
    )
