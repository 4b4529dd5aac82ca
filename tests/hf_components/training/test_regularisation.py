"""Regularisers: moving average of the weights, distance to the start, agreement under two masks."""

import copy

import pytest
import torch
from parsing import parse
from safetensors.torch import load_file
from tiny_speech import (
    REGULARISERS,
    Kill,
    batch_of,
    move,
    regularised_gradient,
    resumable_trainer,
    rows,
    tiny_moe,
    tiny_processor,
    tiny_whisper,
    training_arguments,
)
from transformers import TrainerCallback

from hf_components.checkpoints import AVERAGED_WEIGHTS
from hf_components.checkpoints.training_checkpoints import TRAINED_WEIGHTS, weights_file
from hf_components.runtime.errors import UserError
from hf_components.training import sharding
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.consistency import symmetric_kl
from hf_components.training.ema import MovingAverage, trained_weights
from hf_components.training.start import START_WEIGHTS, DistanceToStart
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit
MASKS = {"time_masks": 2, "mel_masks": 2}


class WeightRecorder(TrainerCallback):
    """Keeps the trained weights before the first step and after every step."""

    def __init__(self):
        self.steps = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weights.clone() for name, weights in trained_weights(model).items()})

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.on_train_begin(args, state, control, model=model)


def trainer_of(folder, callbacks=(), corpus=None, eval_corpus=None, model=None, **options) -> SpeechTrainer:
    args = training_arguments(
        folder, **{"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-2, **options}
    )
    return SpeechTrainer(
        model or tiny_whisper(), args, tiny_processor(), corpus or rows(8), eval_corpus, callbacks=list(callbacks)
    )


def assert_close(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=2e-5 * scale, rtol=1e-3)


def assert_same_bits(actual: torch.nn.Module, expected: torch.nn.Module) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], value), name


# Moving average


def by_hand(steps: list[dict], decay: float) -> dict:
    average = dict(steps[0])
    for step, weights in enumerate(steps[1:], 1):
        d = min(decay, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name] for name in weights}
    return average


def test_the_saved_weights_are_the_moving_average(tmp_path):
    recorder = WeightRecorder()
    trainer = trainer_of(tmp_path, [recorder], ema_decay=0.3, num_train_epochs=3)
    trainer.train()
    assert len(recorder.steps) == 7
    expected = by_hand(recorder.steps, 0.3)
    for name, weights in trained_weights(trainer.whole_model()).items():
        torch.testing.assert_close(weights, expected[name], atol=1e-6, rtol=1e-5)
    last = recorder.steps[-1]
    assert any(not torch.equal(weights, last[name]) for name, weights in trained_weights(trainer.model).items())


def test_the_decay_grows_to_its_limit():
    average = MovingAverage(tiny_whisper(), 0.99)
    assert [average.decay_at(step) for step in (1, 8, 10_000)] == [2 / 11, 0.5, 0.99]


def test_the_moving_average_changes_nothing_in_training(tmp_path):
    plain, averaged = WeightRecorder(), WeightRecorder()
    trainer_of(tmp_path / "plain", [plain]).train()
    trainer_of(
        tmp_path / "averaged", [averaged], None, rows(3, first=50), ema_decay=0.9, eval_strategy="epoch"
    ).train()
    for one, other in zip(plain.steps, averaged.steps, strict=True):
        assert all(torch.equal(other[name], weights) for name, weights in one.items())


def test_the_moving_average_is_evaluated(tmp_path, monkeypatch):
    seen = []

    def watch(model, processor, corpus, **options):
        seen.append({name: weights.clone() for name, weights in trained_weights(model).items()})
        return [""] * len(corpus)

    monkeypatch.setattr("hf_components.training.trainer.transcribe", watch)
    recorder = WeightRecorder()
    trainer = trainer_of(tmp_path, [recorder], None, rows(3), ema_decay=0.9, eval_strategy="steps", eval_steps=1)
    trainer.train()
    trainer.evaluate()
    for step in range(1, 5):
        expected = by_hand(recorder.steps[: step + 1], 0.9)
        for name, weights in seen[step - 1].items():
            torch.testing.assert_close(weights, expected[name], atol=1e-6, rtol=1e-5)
    assert all(torch.equal(seen[-1][name], weights) for name, weights in seen[-2].items())


def test_only_what_is_trained_is_averaged_and_checkpoints_hold_it(tmp_path):
    model = tiny_whisper()
    model.model.encoder.requires_grad_(False)
    trainer = trainer_of(tmp_path, model=model, ema_decay=0.9, save_strategy="steps", save_steps=2)
    trainer.train()
    folder = tmp_path / "checkpoint-4"
    average = load_file(folder / AVERAGED_WEIGHTS)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(average) == trained == set(load_file(folder / TRAINED_WEIGHTS))
    assert weights_file(folder) == folder / AVERAGED_WEIGHTS
    for name, weights in trained_weights(model).items():
        assert torch.equal(average[name], weights)
    assert_same_bits(model.model.encoder, tiny_whisper().model.encoder)


def test_the_best_checkpoint_gives_its_average(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "early_stopping_patience": 5, "ema_decay": 0.9}
    trainer = trainer_of(tmp_path, (), None, rows(3, first=50), num_train_epochs=3, **options)
    trainer.train()
    average = load_file(f"{trainer.state.best_model_checkpoint}/{AVERAGED_WEIGHTS}")
    for name, weights in trained_weights(trainer.model).items():
        assert torch.equal(weights, average[name])


@pytest.mark.parametrize("flag", ["ema_decay", "l2_to_start"])
def test_a_checkpoint_without_it_does_not_go_on_with_it(tmp_path, flag):
    trainer_of(tmp_path, save_strategy="steps", save_steps=1, num_train_epochs=1).train()
    with pytest.raises(UserError, match=f"written without {flag}; leave it out, or start anew with --force_restart"):
        trainer_of(tmp_path, **{flag: 0.5}).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("flag", ["ema_decay", "l2_to_start"])
def test_sharded_weights_are_refused(flag):
    class Sharded:
        distributed_type = sharding.DistributedType.FSDP

    with pytest.raises(UserError, match=f"{flag} is not supported with weights spread over processes"):
        sharding.refuse_sharding(Sharded(), flag)


# Distance to the start


def test_the_penalty_is_the_squared_distance(tmp_path):
    trainer = trainer_of(tmp_path, l2_to_start=0.5)
    batch = batch_of(trainer)
    plain, _ = trainer.loss_of_batch(trainer.model, dict(batch), None)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(plain.item())
    start = copy.deepcopy(trainer.model)
    move(trainer.model)
    squared = sum(
        (after - before).square().sum()
        for after, before in zip(trained_weights(trainer.model).values(), trained_weights(start).values(), strict=True)
    )
    plain, _ = trainer.loss_of_batch(trainer.model, dict(batch), None)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx((plain + 0.5 * squared).item())
    trainer.model.zero_grad()
    (loss - plain).backward()
    for (name, parameter), before in zip(
        trainer.model.named_parameters(), dict(start.named_parameters()).values(), strict=True
    ):
        if parameter.requires_grad:
            expected = parameter.detach() - before.detach()  # 2 * 0.5 * the difference
            torch.testing.assert_close(parameter.grad, expected, atol=1e-4, rtol=1e-3, msg=name)


def test_it_keeps_the_weights_near_their_start(tmp_path):
    far, near = (trainer_of(tmp_path, num_train_epochs=4, l2_to_start=coef) for coef in (1e-9, 10.0))
    for trainer in (far, near):
        trainer.train()
    distance = [trainer.start.squared().sqrt().item() for trainer in (far, near)]
    assert distance[1] < 0.5 * distance[0]
    assert near.state.log_history[-2]["distance_to_start"] == pytest.approx(distance[1], abs=1e-3)


def test_checkpoints_hold_the_start(tmp_path):
    trainer = trainer_of(tmp_path, l2_to_start=0.1, save_strategy="steps", save_steps=2)
    start = {name: weights.clone() for name, weights in trained_weights(trainer.model).items()}
    trainer.train()
    kept = load_file(tmp_path / "checkpoint-4" / START_WEIGHTS)
    assert kept.keys() == start.keys() and all(torch.equal(kept[name], start[name]) for name in start)
    other = DistanceToStart(tiny_whisper(seed=1))
    other.load(tmp_path / "checkpoint-4")
    assert all(torch.equal(other.start[name], start[name]) for name in start)


# Two masks


def test_every_utterance_comes_twice_with_masks_of_its_own(tmp_path):
    once, twice = (trainer_of(tmp_path, consistency_coef=coef, **MASKS) for coef in (0.0, 1.0))
    plain, batch = batch_of(once), batch_of(twice)
    first, second = batch["input_features"].chunk(2)
    assert torch.equal(first, plain["input_features"])
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for name in ("labels", "attention_mask"):
        assert torch.equal(batch[name], torch.cat([plain[name]] * 2))
    assert torch.equal(batch_of(twice)["input_features"], batch["input_features"])
    other = trainer_of(tmp_path, consistency_coef=1.0, data_seed=5, **MASKS)
    assert not torch.equal(batch_of(other)["input_features"].chunk(2)[1], second)


def test_symmetric_kl_is_the_mean_of_both_directions():
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3], [4, -100, -100]] * 2)
    p, q = (half.log_softmax(-1) for half in logits.chunk(2))
    one, other = (
        torch.nn.functional.kl_div(a, b, reduction="none", log_target=True).sum(-1) for a, b in ((p, q), (q, p))
    )
    expected = ((one + other) / 2)[labels[:2] != -100].sum()
    torch.testing.assert_close(symmetric_kl(logits, labels != -100), expected)
    assert symmetric_kl(torch.cat([logits[:2]] * 2), labels != -100) == 0


def test_the_loss_is_the_mean_of_both_and_their_divergence(tmp_path):
    trainer = trainer_of(tmp_path, consistency_coef=0.5, **MASKS)
    batch = batch_of(trainer)
    model = trainer.model.eval()
    first, second = ({name: value.chunk(2)[half] for name, value in batch.items()} for half in (0, 1))
    logits = [model(**half).logits for half in (first, second)]
    real = first["labels"] != -100
    cross_entropy = [
        torch.nn.functional.cross_entropy(half[real], first["labels"][real], reduction="sum") for half in logits
    ]
    p, q = (half[real].softmax(-1) for half in logits)
    divergence = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    expected = (sum(cross_entropy) / 2 + 0.5 * divergence) / real.sum()
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected, atol=1e-4, rtol=1e-4)
    assert divergence > 1e-3


def test_training_brings_both_outputs_together(tmp_path):
    last = []
    for coef in (1e-9, 5.0):
        trainer = trainer_of(tmp_path, consistency_coef=coef, num_train_epochs=10, learning_rate=5e-3, **MASKS)
        trainer.train()
        last.append(trainer.state.log_history[-2]["consistency_kl"])
    assert last[1] < 0.5 * last[0]


def test_expert_weights_come_twice(tmp_path):
    model = tiny_moe()
    weights = torch.eye(3)[torch.arange(8) % 3].numpy()
    args = training_arguments(tmp_path, consistency_coef=1.0, **MASKS)
    trainer = SpeechTrainer(model, args, tiny_processor(), rows(8), expert_weights=weights)
    assert batch_of(trainer)["expert_weights"].tolist() == 2 * weights[:4].tolist()


# All of them


@pytest.mark.parametrize("options", [{"l2_to_start": 0.5}, {"consistency_coef": 2.0, **MASKS}], ids=["start", "masks"])
def test_every_split_gives_the_gradient_of_the_whole(tmp_path, options):
    plain, whole, *others = (
        regularised_gradient(tmp_path, *sizes, **given)
        for sizes, given in (((8, 1), {}), ((8, 1), options), ((4, 2), options), ((2, 4), options))
    )
    for other in others:
        assert_close(other, whole)
    if "consistency_coef" in options:
        assert any((plain[name] - whole[name]).abs().max() > 1e-3 for name in whole)


def test_every_split_has_the_whole_penalty_once(tmp_path):
    plain = regularised_gradient(tmp_path, 8, 1, moved=True)
    start = trained_weights(tiny_whisper())
    moved = tiny_whisper()
    move(moved)
    expected = {
        name: plain[name] + 2 * 0.5 * (weights - start[name])
        for name, weights in trained_weights(moved).items()
        if name in plain
    }
    for sizes in ((8, 1), (4, 2), (2, 4)):
        actual = regularised_gradient(tmp_path, *sizes, moved=True, l2_to_start=0.5)
        assert_close({name: actual[name] for name in expected}, expected)


@pytest.mark.parametrize("step", [2, 5])
def test_resuming_with_everything_gives_the_same_bits(tmp_path, step):
    whole = resumable_trainer(tmp_path / "whole", save_steps=100, **REGULARISERS)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path / "cut", callbacks=[Kill(step)], **REGULARISERS).train()
    resumed = resumable_trainer(tmp_path / "cut", save_steps=100, **REGULARISERS)
    resumed.train(resume_from_checkpoint=True)
    assert_same_bits(resumed.model, whole.model)
    for name, start in whole.start.start.items():
        assert torch.equal(resumed.start.start[name], start)
    assert resumed.last_loss == whole.last_loss


def test_killed_between_the_last_step_and_the_end(tmp_path):
    whole = resumable_trainer(tmp_path, save_steps=9, **REGULARISERS)
    whole.train()
    resumed = resumable_trainer(tmp_path, save_steps=9, **REGULARISERS)
    resumed.train(resume_from_checkpoint=True)
    assert_same_bits(resumed.model, whole.model)


def test_off_by_default(tmp_path):
    args = SpeechTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert (args.ema_decay, args.l2_to_start, args.consistency_coef, args.concatenate) == (0, 0, 0, 0)
    trainer = trainer_of(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    assert (trainer.ema, trainer.start, trainer.concatenation) == (None, None, None)
    assert not {AVERAGED_WEIGHTS, START_WEIGHTS} & {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert not {"consistency_kl", "distance_to_start"} & {key for entry in trainer.state.log_history for key in entry}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema_decay": 1.0}, r"--ema_decay must lie in \[0, 1\), got 1.0"),
        ({"l2_to_start": -1.0}, "--l2_to_start must be at least 0, got -1.0"),
        ({"consistency_coef": -1.0}, "--consistency_coef must be at least 0, got -1.0"),
        ({"concatenate": 2.0}, r"--concatenate must lie in \[0, 1\], got 2.0"),
        ({"concatenate_seconds": 31.0}, r"--concatenate_seconds must lie in \(0, 30\], got 31.0"),
    ],
)
def test_mistakes_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        parse(SpeechTrainingArguments, output_dir=tmp_path, use_cpu=True, **options)
