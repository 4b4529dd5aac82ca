"""Router pre-training on embeddings: learning, stopping early, resuming, calibration."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from hf_components.moe import router as router_module
from hf_components.moe.router import (
    CALIBRATION_BINS,
    RouterArguments,
    best_epoch,
    choose_held_out,
    evaluate_router,
    reliability,
    train_router,
)
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit
SMALL = {"router_hidden_size": 8, "num_train_epochs": 6, "batch_size": 50, "save_every_n_epochs": 1}


def clusters(count: int = 240, experts: int = 3, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around one point per expert, one dimension a hundred times larger, and soft labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % experts
    vectors = np.random.default_rng(99).normal(size=(experts, 12))[labels] * 3 + noise * rng.normal(size=(count, 12))
    vectors[:, 0] = 100 * rng.normal(size=count) + 50
    weights = np.full((count, experts), 0.05, np.float32)
    weights[np.arange(count), labels] = 1 - 0.05 * (experts - 1)
    return vectors.astype(np.float32), weights


def overfitting() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels that have nothing to do with the embeddings; what is learnt of them is wrong of the held-out third."""
    rng = np.random.default_rng(0)
    weights = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 90)]
    return rng.normal(size=(90, 12)).astype(np.float32), weights, np.arange(90) % 3 == 0


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_learns_separable_clusters_and_generalises():
    router, history = train_router(
        *clusters(), RouterArguments(router_hidden_size=16, num_train_epochs=60, batch_size=64, learning_rate=1e-2)
    )
    assert len(history) == 60 and history[-1]["train_kl"] < 0.05 < 0.5 < history[0]["train_kl"]
    assert [entry["learning_rate"] for entry in history] == pytest.approx(
        [1e-2 * (1 + np.cos(np.pi * epoch / 60)) / 2 for epoch in range(60)]
    )
    assert not router.training
    judged = evaluate_router(router, *clusters(seed=1))
    assert judged["accuracy"] > 0.97 and judged["kl"] < 0.1 and judged["utterances"] == 240
    assert judged["usage"] == pytest.approx([1 / 3] * 3, abs=0.02)
    vectors = clusters()[0]
    torch.testing.assert_close(router.mean, torch.from_numpy(vectors).mean(0))


def test_is_a_function_of_its_seed():
    torch.manual_seed(1)
    first, history = train_router(*clusters(), RouterArguments(**SMALL))
    torch.manual_seed(2)
    second, again = train_router(*clusters(), RouterArguments(**SMALL))
    assert history == again
    assert_same(first, second)
    assert train_router(*clusters(), RouterArguments(**SMALL, seed=1))[1] != history


def test_stops_early_and_keeps_the_best_epoch():
    vectors, weights, held_out = overfitting()
    args = {"router_hidden_size": 64, "num_train_epochs": 200, "batch_size": 20, "learning_rate": 1e-2}
    router, history = train_router(vectors, weights, RouterArguments(**args, early_stopping_patience=7), held_out)
    best = best_epoch(history)
    losses = [entry["validation_kl"] for entry in history]
    assert len(history) == best + 7 < 60 and losses[best - 1] == min(losses) < losses[-1]
    judged = evaluate_router(router, vectors[held_out], weights[held_out])
    assert (judged["kl"], judged["accuracy"]) == (losses[best - 1], history[best - 1]["validation_accuracy"])
    torch.testing.assert_close(
        router.mean, torch.from_numpy(vectors[~held_out]).mean(0)
    )  # of what is trained on alone


def test_the_held_out_part_is_not_trained_on():
    vectors, weights, held_out = overfitting()
    args = RouterArguments(**SMALL, early_stopping_patience=100)
    router, history = train_router(vectors, weights, args, held_out)
    changed = weights.copy()
    changed[held_out] = np.roll(weights[held_out], 1, axis=1)
    others = train_router(vectors, changed, args, held_out)[1]
    assert [entry["train_kl"] for entry in others] == [entry["train_kl"] for entry in history]
    assert [entry["validation_kl"] for entry in others] != [entry["validation_kl"] for entry in history]


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize(("epochs_before", "save_every"), [(1, 1), (4, 1), (4, 3), (1, 3)])
def test_resuming_gives_the_same_bits(tmp_path, monkeypatch, epochs_before, save_every, validated):
    vectors, weights, held_out = overfitting()
    args = RouterArguments(
        **{**SMALL, "save_every_n_epochs": save_every}, learning_rate=1e-2, early_stopping_patience=3
    )
    inputs = (vectors, weights, args, held_out if validated else None)
    router, history = train_router(*inputs)

    class Killed(Exception):
        pass

    def die(*arguments, epoch, **options):
        if epoch == epochs_before:
            raise Killed
        return train_epoch(*arguments, epoch=epoch, **options)

    train_epoch = router_module._train_epoch
    with monkeypatch.context() as patch:
        patch.setattr(router_module, "_train_epoch", die)
        with pytest.raises(Killed):
            train_router(*inputs, tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / ".epoch.tmp").write_bytes(b"half")
    torch.rand(5)
    resumed, again = train_router(*inputs, tmp_path / "checkpoints")
    assert again == history
    assert_same(resumed, router)


def test_resuming_what_had_ended_changes_nothing(tmp_path):
    vectors, weights, held_out = overfitting()
    args = RouterArguments(
        router_hidden_size=32,
        num_train_epochs=100,
        batch_size=20,
        learning_rate=1e-2,
        early_stopping_patience=2,
        save_every_n_epochs=1,
    )
    router, history = train_router(vectors, weights, args, held_out, tmp_path / "checkpoints")
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in files] == [
        f"epoch-{number:05d}.safetensors" for number in (len(history) - 1, len(history))
    ]
    with safe_open(files[-1], "pt") as file:
        assert json.loads(file.metadata()["history"]) == history
    before = [file.stat().st_mtime_ns for file in files]
    resumed, again = train_router(vectors, weights, args, held_out, tmp_path / "checkpoints")
    assert again == history and [file.stat().st_mtime_ns for file in files] == before
    assert_same(resumed, router)


def test_held_out_are_whole_speakers_by_seed():
    speakers, labels = np.repeat([f"s{i}" for i in range(40)], 3), np.arange(120) % 3
    held_out = choose_held_out(speakers, labels, RouterArguments())
    assert held_out.sum() == 12 and len(set(speakers[held_out])) == 4
    assert not set(speakers[held_out]) & set(speakers[~held_out])
    assert (choose_held_out(speakers, labels, RouterArguments()) == held_out).all()
    assert (choose_held_out(speakers, labels, RouterArguments(seed=1)) != held_out).any()
    assert not choose_held_out(speakers, labels, RouterArguments(validation_fraction=0)).any()


def test_every_expert_keeps_utterances_to_train_on():
    speakers, labels = np.array([f"s{i}" for i in range(20)]), np.zeros(20, int)
    labels[:8] = np.arange(1, 9)  # eight experts with a single speaker each
    for seed in range(10):
        held_out = choose_held_out(speakers, labels, RouterArguments(validation_fraction=0.5, seed=seed))
        assert held_out.sum() == 10 and not held_out[:8].any()


@pytest.mark.parametrize(
    ("speakers", "fraction", "message"),
    [
        (20, 0.1, "early stopping needs 3 held-out speakers, but validation_fraction 0.1 of 20 speakers gives 2"),
        (3, 0.9, "of 3 speakers gives 0"),
    ],
)
def test_too_few_speakers_are_told(caplog, speakers, fraction, message):
    labels = np.arange(speakers) % 3  # of three speakers each has an expert of his own
    names = np.array([f"s{i}" for i in range(speakers)])
    assert not choose_held_out(names, labels, RouterArguments(validation_fraction=fraction)).any()
    assert message in caplog.text and "raise validation_fraction" in caplog.text


def test_no_validation_asked_for_is_silent(caplog):
    caplog.set_level(logging.WARNING)
    assert not choose_held_out(np.array(["a", "b"]), np.array([0, 1]), RouterArguments(validation_fraction=0)).any()
    assert not caplog.records


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--gating_batch_size=0", "--batch_size must be at least 1, got 0"),
        ("--early_stopping_patience=0", "--early_stopping_patience must be at least 1, got 0"),
        ("--validation_fraction=1", r"--validation_fraction must lie in \[0, 1\), got 1$"),
    ],
)
def test_values_out_of_range_are_told(flag, message):
    with pytest.raises(UserError, match=message):
        parse_arguments(RouterArguments, [flag])


def test_gating_batch_size_is_batch_size():
    assert parse_arguments(RouterArguments, ["--gating_batch_size=256"])[0].batch_size == 256
    assert RouterArguments().batch_size == 512


class Fixed(torch.nn.Module):
    def forward(self, embeddings):
        return embeddings  # the embeddings are the logits


def test_judge_against_figures_by_hand():
    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]]))
    weights = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.8, 0.2]])
    judged = evaluate_router(Fixed(), logits, weights)
    assert judged["accuracy"] == 0.75 and judged["usage"] == [0.25, 0.75, 0.0]
    divergences = [-np.log(0.7), -np.log(0.6), -np.log(0.3), 0.2 * np.log(0.2 / 0.1)]
    assert judged["kl"] == pytest.approx(np.mean(divergences), rel=1e-5)
    gates = np.exp(logits)
    assert judged["entropy"] == pytest.approx(-(gates * logits).sum(-1).mean(), rel=1e-5)
    assert judged["nll"] == pytest.approx(-np.log([0.7, 0.6, 0.3, 0.8]).mean(), rel=1e-5)
    assert judged["ece"] == pytest.approx((0.3 + 0.4 + 0.5 + 0.2) / 4, rel=1e-5)  # each in a bin of its own
    assert (judged["confidence"], judged["label_confidence"]) == (pytest.approx(0.65), pytest.approx(0.95))


def test_calibration_against_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2000, 4)).astype(np.float32)
    truth = np.where(rng.random(2000) < 0.5, logits.argmax(-1), rng.integers(0, 4, 2000))
    judged = evaluate_router(Fixed(), logits, np.eye(4, dtype=np.float32)[truth])
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    confidence, correct = gates.max(-1), gates.argmax(-1) == truth
    accuracies, confidences = calibration_curve(correct, confidence, n_bins=CALIBRATION_BINS)
    assert [row["accuracy"] for row in judged["reliability"]] == pytest.approx(accuracies, abs=1e-6)
    assert [row["confidence"] for row in judged["reliability"]] == pytest.approx(confidences, abs=1e-6)
    shares = np.histogram(confidence, np.linspace(0, 1, CALIBRATION_BINS + 1))[0] / 2000
    assert judged["ece"] == pytest.approx((shares[shares > 0] * abs(accuracies - confidences)).sum(), abs=1e-6)
    assert judged["nll"] == pytest.approx(log_loss(truth, gates), abs=1e-6)


def test_a_calibrated_router_has_no_calibration_error_and_a_boastful_one_has():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 50_000)
    correct = rng.random(50_000) < confidence

    def error(confidence):
        return sum(row["share"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(confidence, correct))

    assert error(confidence) < 0.01 and error(np.ones(50_000)) == pytest.approx(0.25, abs=0.01)
    assert sum(row["share"] for row in reliability(confidence, correct)) == pytest.approx(1)
    assert reliability(np.array([0.0, 1.0]), np.array([False, True])) == [
        {"confidence": 0.0, "accuracy": 0.0, "share": 0.5},
        {"confidence": 1.0, "accuracy": 1.0, "share": 0.5},
    ]
