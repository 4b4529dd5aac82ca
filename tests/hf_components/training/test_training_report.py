"""Curves of a training run."""

import json
from types import SimpleNamespace

import pytest

from hf_components.training.report import save_history

pytestmark = pytest.mark.unit


def test_a_plot_for_every_kind_of_entry(tmp_path):
    history = [
        {"epoch": 0.5, "loss": 3.0, "routing_entropy": 1.0, "usage_expert_0": 0.4, "usage_expert_1": 0.6},
        {"epoch": 1.0, "loss": 2.0, "routing_temperature": 1.5},
        {"epoch": 1.0, "eval_wer": 0.5},
        {"train_loss": 2.5, "train_runtime": 3.0},
    ]
    save_history(SimpleNamespace(state=SimpleNamespace(log_history=history)), tmp_path, "Joint training")
    assert json.loads((tmp_path / "history.json").read_text()) == [*history[:-1], {"train_runtime": 3.0}]
    for name in ("loss.png", "routing.png", "wer.png", "usage.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_no_plot_of_what_was_not_logged(tmp_path):
    save_history(
        SimpleNamespace(state=SimpleNamespace(log_history=[{"epoch": 1.0, "loss": 3.0}])), tmp_path, "Training"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"history.json", "loss.png"}
