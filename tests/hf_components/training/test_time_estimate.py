"""The estimate of training time is the median of the first steps after the warm-up, for all that are left."""

from types import SimpleNamespace

import pytest

from hf_components.training import time_estimate
from hf_components.training.time_estimate import TimeEstimate

pytestmark = pytest.mark.unit


def estimate(monkeypatch, first: int, steps: int) -> TimeEstimate:
    """Of a training whose step n takes n seconds, from `first` on."""
    clock, callback = [0.0], TimeEstimate()
    monkeypatch.setattr(time_estimate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    callback.on_train_begin(None, SimpleNamespace(global_step=first, max_steps=steps), None)
    for step in range(first + 1, steps + 1):
        clock[0] += step
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=steps), None)
    return callback


@pytest.mark.parametrize(
    ("first", "steps", "seconds"),
    [(0, 100, 100 * (6 + 7) / 2), (50, 100, 50 * (56 + 57) / 2), (0, 3, 3 * (2 + 3) / 2), (0, 1, None)],
)
def test_estimate(monkeypatch, capsys, first, steps, seconds):
    assert estimate(monkeypatch, first, steps).seconds == seconds
    printed = capsys.readouterr().err
    assert printed.count("Estimated training time") == (seconds is not None)
    assert seconds is None or f"~{seconds / 60:.1f} minutes ({steps - first} steps of" in printed
