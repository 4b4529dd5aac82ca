"""Adversarial training of a vocoder: losses, what moves, resuming, early stopping, and the alarm of a collapse."""

import json
import math
from pathlib import Path

import pytest
import torch
from parsing import parse
from tiny_units import write_tiny_segments, write_tiny_units

from hf_components.checkpoints.training_checkpoints import COMPLETE
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel
from hf_components.unit_hifigan.discriminators import PERIODS, RESOLUTIONS, Discriminators
from hf_components.units.table import read_units
from hf_components.units.vocoder import trainer as trainer_module
from hf_components.units.vocoder.arguments import AdversarialArguments
from hf_components.units.vocoder.crops import UnitCrops
from hf_components.units.vocoder.losses import MelLoss, adversarial_loss, discriminator_loss, feature_loss, r1_penalty
from hf_components.units.vocoder.trainer import JUDGED, AdversarialTrainer, epochs_without_gain, warn_of_collapse

pytestmark = pytest.mark.unit
FLAGS = {
    "epochs": 4,
    "samples_per_epoch": 4,
    "batch_size": 2,
    "crop_seconds": 0.5,
    "validation_crops": 2,
    "lr": 1e-3,
    "adversarial_from_epoch": 2,
    "period_channels": 1,
    "resolution_channels": 2,
    "report_to": "none",
    "patience": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    segments = write_tiny_segments(folder / "segments", train=3, dev=2)
    table = read_units(write_tiny_units(folder / "units", segments))
    units = dict(zip(table.rows["id"].to_pylist(), table.rows["units"].to_numpy(), strict=True))
    return load_corpus(segments), units, table.identity


def trainer_of(data, folder: Path, head: str = "istft", fields: dict | None = None, **flags) -> AdversarialTrainer:
    corpus, units, identity = data
    torch.manual_seed(0)
    model = UnitHifiGanModel(
        UnitHifiGanConfig(
            num_units=8,
            units=identity,
            head=head,
            embedding_dim=8,
            hidden_size=16,
            intermediate_size=32,
            num_layers=1,
            upsample_initial_channel=32,
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
            initializer_range=0.1,
            **(fields or {}),
        )
    )
    crops = [UnitCrops(corpus[split], units, 25, model.config) for split in ("train", "dev")]
    return AdversarialTrainer(model, AdversarialArguments(**{**FLAGS, **flags}), *crops, folder)


def state_of(trainer: AdversarialTrainer) -> dict:
    state = {
        f"{kind}.{name}": value.clone()
        for kind in ("generator", "discriminators")
        for name, value in getattr(trainer, kind).state_dict().items()
    }
    for number, optimizer in enumerate(trainer.optimizers):
        state |= {
            f"optimizer{number}.{index}.{name}": value
            for index, moments in optimizer.state_dict()["state"].items()
            for name, value in moments.items()
        }
    return state | {f"best.{name}": value for name, value in trainer.best.items()}


class Stop(Exception):
    pass


def stop_after(epoch: int):
    def after_epoch(trainer):
        if len(trainer.history) == epoch:
            raise Stop

    return after_epoch


def test_mel_loss_is_distance_in_loudness_and_pitch():
    loss, time = MelLoss(16_000), torch.arange(16_000) / 16_000
    tone = 0.1 * torch.sin(2 * math.pi * 440 * time)[None]
    assert loss(tone, tone) == 0
    noise = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    assert loss(2 * noise, noise) == pytest.approx(45 * math.log(2), rel=1e-2)  # nothing of it is at the floor
    assert loss(0.1 * torch.sin(2 * math.pi * 500 * time)[None], tone) > 5
    quiet = noise.clone().requires_grad_()
    loss(quiet, 0 * noise).backward()
    assert quiet.grad.isfinite().all()


def test_least_squares_by_hand():
    def scores(*values):
        return [[torch.ones(1), torch.tensor(value)] for value in values]

    assert discriminator_loss(scores([1.0], [1.0]), scores([0.0], [0.0])) == 0
    assert discriminator_loss(scores([0.5], [0.5]), scores([0.5], [0.5])) == 0.5
    assert adversarial_loss(scores([1.0], [0.0], [0.5])) == 1.25
    assert (
        feature_loss([[torch.tensor([1.0, 2.0]), torch.ones(1)]], [[torch.tensor([0.0, 0.0]), torch.zeros(1)]]) == 3.0
    )


def test_r1_of_a_linear_discriminator_is_its_squared_weights():
    weights = torch.tensor([3.0, 4.0])
    waveform = torch.randn(5, 2, requires_grad=True)
    assert r1_penalty([[(waveform * weights).sum(1, keepdim=True)]], waveform) == pytest.approx(0.5 * 25)


def test_discriminators_look_at_every_period_and_resolution():
    discriminators = Discriminators(2, 2)
    features = discriminators(torch.randn(3, 4001))
    assert len(features) == len(PERIODS) + len(RESOLUTIONS)
    assert all(layers[-1].shape[:2] == (3, 1) for layers in features)
    silence = torch.zeros(1, 4000, requires_grad=True)
    r1_penalty(discriminators(silence), silence).backward()  # through the square root at 0
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in discriminators.parameters())


@pytest.mark.parametrize(("head", "flags"), [("istft", {}), ("hifigan", {"r1_weight": 1.0, "discriminator_steps": 2})])
def test_what_should_move_moves_when_it_should(data, tmp_path, head, flags):
    trainer = trainer_of(data, tmp_path, head, epochs=2, **flags)
    seen = [state_of(trainer)]
    trainer.train(after_epoch=lambda trainer: seen.append(state_of(trainer)))
    for epoch, moving in ((0, {"generator"}), (1, {"generator", "discriminators"})):
        for name in (name for name in seen[0] if name.startswith(("generator.", "discriminators."))):
            moved = not torch.equal(seen[epoch][name], seen[epoch + 1][name])
            assert moved == (name.split(".")[0] in moving), (epoch, name)
    first, second = trainer.history
    assert {"epoch", "lr", "mel_loss", JUDGED} == first.keys()
    assert second.keys() - first.keys() == {"discriminator_loss", "adversarial_loss", "feature_loss"}
    assert second["lr"] == pytest.approx(1e-3 * 0.999)


def test_training_brings_the_mel_loss_down(data, tmp_path):
    trainer = trainer_of(data, tmp_path, epochs=16, adversarial_from_epoch=99, lr=5e-3)
    trainer.train()
    assert trainer.history[-1][JUDGED] < 0.8 * trainer.history[0][JUDGED]


def test_durations_are_learned_beside(data, tmp_path):
    trainer = trainer_of(
        data, tmp_path, fields={"predict_durations": True}, epochs=6, adversarial_from_epoch=9, lr=1e-2
    )
    trainer.train()
    losses = [entry["duration_loss"] for entry in trainer.history]
    assert losses[-1] < losses[0]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    trainer = trainer_of(data, tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("stopped", [1, 3])  # before and after the discriminators join
def test_resuming_gives_the_same_bits(data, whole, tmp_path, stopped):
    with pytest.raises(Stop):  # before the checkpoint of that epoch
        trainer_of(data, tmp_path).train(after_epoch=stop_after(stopped + 1))
    resumed, epochs = trainer_of(data, tmp_path), []
    resumed.train(resume=True, after_epoch=lambda trainer: epochs.append(len(trainer.history)))
    assert epochs == list(range(stopped + 1, 5)) and resumed.history == whole.history
    expected, actual = state_of(whole), state_of(resumed)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


def test_checkpoints_are_whole_and_two_are_kept(data, tmp_path):
    trainer_of(data, tmp_path, adversarial_from_epoch=9).train()
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    (folder / "checkpoint-4" / COMPLETE).unlink()  # killed between renaming and marker
    (folder / "checkpoint-4" / "optimizer.bin").write_bytes(b"half")
    (folder / ".checkpoint-5.tmp").mkdir()  # killed while writing
    resumed = trainer_of(data, tmp_path, epochs=5, adversarial_from_epoch=9)
    resumed.train(resume=True)
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-4", "checkpoint-5"]
    assert json.loads((folder / "checkpoint-5" / "history.json").read_text()) == resumed.history


def test_the_best_epoch_is_kept_and_patience_ends_training(data, tmp_path, monkeypatch):
    trainer = trainer_of(data, tmp_path, epochs=20, patience=3, min_delta=1.0, adversarial_from_epoch=99)
    losses = iter([50.0, 40.0, 39.5, 39.8, 39.4, 10.0])
    monkeypatch.setattr(trainer, "validate", lambda: next(losses))
    weights = []
    trainer.train(after_epoch=lambda trainer: weights.append(trainer.generator.unit_embedding.weight.detach().clone()))
    assert [entry[JUDGED] for entry in trainer.history] == [50.0, 40.0, 39.5, 39.8, 39.4]
    assert trainer.best_epoch == 5
    assert torch.equal(trainer.vocoder(trainer.best).unit_embedding.weight, weights[-1])


def test_epochs_with_discriminators_compete_among_themselves(data, tmp_path, monkeypatch):
    trainer = trainer_of(
        data, tmp_path, epochs=20, patience=2, min_delta=0.1, adversarial_from_epoch=5, samples_per_epoch=2
    )
    losses = iter([50.0, 40.0, 40.0, 40.0, 45.0, 44.0, 44.0, 44.0, 10.0])
    monkeypatch.setattr(trainer, "validate", lambda: next(losses))
    trainer.train()
    assert len(trainer.history) == 8 and trainer.best_epoch == 6


def test_epochs_without_gain():
    assert epochs_without_gain([], 0.5) == 0
    assert epochs_without_gain([50, 49, 48], 0.5) == 0
    assert epochs_without_gain([50, 49.8, 49.6, 49.55], 0.5) == 3
    assert epochs_without_gain([50, 49.8, 49.4, 49.6], 0.5) == 1


def test_collapse_is_told_once_each_time(caplog):
    losses = [math.inf] * 3 + [0.4, 0.01, 0.02, 0.01, 0.01, 0.02, 0.01, 0.01, 0.3, 0.01]
    told = []
    for count in range(1, len(losses) + 1):
        caplog.clear()
        warn_of_collapse(losses[:count])
        if caplog.text:
            told.append(count)
            assert (
                "--discriminator_lr" in caplog.text
                and "--r1_weight" in caplog.text
                and "0.5 is undecided" in caplog.text
            )
    assert told == [9]


def test_discriminators_that_win_raise_the_alarm(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        trainer_module, "discriminator_loss", lambda real, spoken: 1e-3 * discriminator_loss(real, spoken)
    )
    trainer_of(data, tmp_path, epochs=6, adversarial_from_epoch=1, samples_per_epoch=2).train()
    assert caplog.text.count("have collapsed") == 1


def test_a_loss_that_is_not_finite_stops_training(data, tmp_path):
    trainer = trainer_of(data, tmp_path, lr=1e30)
    with pytest.raises(UserError, match="is not finite after epoch 1; take a lower --lr .now 1e.30."):
        trainer.train()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"r1_weight": -1}, "--r1_weight must be at least 0, got -1"),
        ({"samples_per_epoch": 1}, "samples_per_epoch must be at least batch_size 2, got 1"),
        ({"lr": 0}, "--lr must be above 0, got 0"),
    ],
)
def test_wrong_flags_are_named(flags, message):
    with pytest.raises(UserError, match=message):
        parse(AdversarialArguments, **{**FLAGS, **flags})
