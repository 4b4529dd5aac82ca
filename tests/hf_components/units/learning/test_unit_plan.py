"""The order in which a corpus is heard."""

import numpy as np
import pytest

from hf_components.units.learning.plan import plan_steps

pytestmark = pytest.mark.unit

IDS = [f"clip_{i}" for i in range(100)]
DURATIONS = np.random.default_rng(0).uniform(1, 10, 100).tolist()


def test_every_clip_once_in_steps_of_batches_of_like_duration():
    steps = plan_steps(IDS, DURATIONS, 0, update_seconds=100, batch_seconds=30)
    batches = [batch for step in steps for batch in step]
    assert sorted(row for batch in batches for row in batch.rows) == list(range(100))
    assert [batch.number for batch in batches] == list(range(len(batches)))
    for step in steps[:-1]:
        assert 100 <= sum(DURATIONS[row] for batch in step for row in batch.rows) < 110
    assert all(len(batch.rows) * max(DURATIONS[row] for row in batch.rows) <= 30 for batch in batches)
    filled = [
        sum(DURATIONS[row] for row in batch.rows) / (len(batch.rows) * max(DURATIONS[row] for row in batch.rows))
        for batch in batches
    ]
    assert np.mean(filled) > 0.85


def test_the_order_is_drawn_by_seed_and_ids_alone():
    plan = plan_steps(IDS, DURATIONS, 0, 100, 30)
    assert plan == plan_steps(IDS, DURATIONS, 0, 100, 30) != plan_steps(IDS, DURATIONS, 1, 100, 30)
    first = sorted(row for batch in plan[0] for row in batch.rows)
    assert first != list(range(len(first)))


def test_a_clip_longer_than_a_batch_is_one():
    (step,) = plan_steps(["a", "b"], [50.0, 2.0], 0, update_seconds=200, batch_seconds=30)
    assert [batch.rows for batch in step] == [(0,), (1,)]
