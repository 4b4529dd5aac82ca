"""Averages, greedy selection, and the checkpoints that go into a soup."""

import json
import random
import shutil

import pytest
import torch
from tiny_speech import resumable_trainer

from hf_components.errors import UserError
from hf_components.soup import average, greedy_soup, load_checkpoints
from hf_components.training.trainer import COMPLETE

pytestmark = pytest.mark.unit


def test_average_is_the_mean_of_every_parameter():
    candidates = [{"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]], dtype=torch.float16)},
                  {"a": torch.tensor([4.0, 0.0]), "b": torch.tensor([[4.0]], dtype=torch.float16)},
                  {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[8.0]], dtype=torch.float16)}]
    soup = average(candidates)
    assert torch.equal(soup["a"], torch.tensor([2.0, 1.0]))
    assert soup["b"].dtype == torch.float16 and soup["b"].item() == 5.0
    alone = average(candidates[:1])
    assert all(torch.equal(alone[name], value) for name, value in candidates[0].items())


def test_greedy_goes_from_best_to_worst_and_keeps_what_does_not_hurt():
    scores = {(0,): 0.5, (1,): 0.3, (2,): 0.4, (3,): 0.9,
              (1, 2): 0.35,  # worse than the best alone: out
              (1, 0): 0.3,  # no worse: in
              (1, 0, 3): 0.2}  # the worst alone helps: in
    asked = []

    def evaluate(members: list[int]) -> float:
        asked.append(tuple(members))
        return scores[tuple(members)]

    soup = greedy_soup(4, evaluate)
    assert (soup.members, soup.score, soup.candidate_scores) == ([1, 0, 3], 0.2, [0.5, 0.3, 0.4, 0.9])
    assert asked == list(scores)[:4] + [(1, 2), (1, 0), (1, 0, 3)]


@pytest.mark.parametrize("seed", range(30))
def test_a_greedy_soup_is_never_worse_than_its_best_candidate(seed):
    table: dict[tuple[int, ...], float] = {}

    def evaluate(members: list[int]) -> float:
        return table.setdefault(tuple(members), random.Random(f"{seed}{members}").random())

    soup = greedy_soup(6, evaluate)
    assert soup.score == table[tuple(soup.members)] <= min(soup.candidate_scores)
    assert len(set(soup.members)) == len(soup.members) and set(soup.members) <= set(range(6))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Nine checkpoints of a joint training."""
    folder = tmp_path_factory.mktemp("trained")
    resumable_trainer(folder).train()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_checkpoints_by_step_and_the_newest_of_them(run):
    checkpoints = load_checkpoints(run)
    assert list(checkpoints) == [f"checkpoint-{step}" for step in range(1, 10)]
    assert all(weights.keys() == checkpoints["checkpoint-9"].keys() for weights in checkpoints.values())
    assert any(".router." in name for name in checkpoints["checkpoint-1"])
    assert list(load_checkpoints(run, last=2)) == ["checkpoint-8", "checkpoint-9"]


def test_an_incomplete_checkpoint_is_passed_over(run):
    (run / "checkpoint-9" / COMPLETE).unlink()
    assert list(load_checkpoints(run, last=2)) == ["checkpoint-7", "checkpoint-8"]


def test_what_makes_no_soup_is_named(run, tmp_path):
    with pytest.raises(UserError, match="at least 2 complete checkpoints, .*nowhere holds 0; .*--save_total_limit"):
        load_checkpoints(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--last must be at least 2, got 1"):
        load_checkpoints(run, last=1)
    (run / "checkpoint-4" / "base.json").write_text(json.dumps({"base_model": "another", "fingerprint": "x"}))
    with pytest.raises(UserError, match="adapt different base models: checkpoint-4 and checkpoint-9"):
        load_checkpoints(run)
