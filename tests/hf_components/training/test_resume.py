"""Training that is killed and resumed ends with the same bits as training that never stopped."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_speech import Kill, resumable_trainer

from hf_components.checkpoints.training_checkpoints import (
    COMPLETE,
    TRAINED_WEIGHTS,
    complete_checkpoints,
    delete_remains,
    last_complete_checkpoint,
    mark_complete,
)
from hf_components.moe.trainer import MoeTrainer
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit
STEPS = 9  # three epochs of three steps


def outcome(trainer: MoeTrainer) -> dict:
    config = trainer.model.config
    return {
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "usage": trainer.usage.tolist(),
        "optimizer": trainer.optimizer.state_dict()["state"],
        "config": (
            config.routing,
            config.router_temperature,
            config.router_noise_std,
            config.min_expert_usage_fraction,
        ),
        "step": trainer.state.global_step,
    }


def assert_same(actual: dict, expected: dict) -> None:
    for name, value in expected["weights"].items():
        assert torch.equal(actual["weights"][name], value), name
    for index, moments in expected["optimizer"].items():
        for name, value in moments.items():
            assert torch.equal(actual["optimizer"][index][name], value), (index, name)
    for key in ("usage", "config", "step"):
        assert actual[key] == expected[key]


@pytest.fixture(scope="module", params=[1, 2], ids=["8x1", "4x2"])
def uninterrupted(request, tmp_path_factory):
    trainer = resumable_trainer(tmp_path_factory.mktemp("whole"), save_steps=100, accumulation=request.param)
    trainer.train()
    assert trainer.state.global_step == STEPS
    return request.param, outcome(trainer)


@pytest.mark.parametrize("step", [2, 3, 7])  # within the first epoch, between epochs, within the last one
def test_resuming_gives_the_same_bits(uninterrupted, tmp_path, step):
    accumulation, expected = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path, accumulation=accumulation, callbacks=[Kill(step)]).train()
    resumed = resumable_trainer(tmp_path, save_steps=100, accumulation=accumulation)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), expected)


def test_evaluation_in_between_changes_no_bit(uninterrupted, tmp_path):
    accumulation, expected = uninterrupted
    trainer = resumable_trainer(
        tmp_path, save_steps=100, accumulation=accumulation, eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    assert_same(outcome(trainer), expected)
    assert sum("eval_wer" in entry for entry in trainer.state.log_history) == 5  # after the last step too


@pytest.mark.parametrize("phases", [{"soft_routing_epochs": 1}, {"soft_routing_epochs": 9}])
def test_killed_between_the_last_step_and_the_end(tmp_path, phases):
    whole = resumable_trainer(tmp_path, save_steps=STEPS, routing=phases)
    whole.train()
    resumed = resumable_trainer(tmp_path, save_steps=STEPS, routing=phases)
    resumed.train(resume_from_checkpoint=True)
    assert_same({**outcome(resumed), "optimizer": {}}, {**outcome(whole), "optimizer": {}})
    assert resumed.last_loss == whole.last_loss


def test_an_incomplete_checkpoint_is_passed_over(uninterrupted, tmp_path):
    accumulation, expected = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path, accumulation=accumulation, callbacks=[Kill(5)]).train()
    (tmp_path / "checkpoint-5" / COMPLETE).unlink()
    (tmp_path / "checkpoint-5" / "optimizer.pt").write_bytes(b"half")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    resumed = resumable_trainer(tmp_path, accumulation=accumulation)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), expected)
    assert (tmp_path / "checkpoint-5" / COMPLETE).exists()


def test_without_a_complete_checkpoint_training_starts_anew(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    assert last_complete_checkpoint(tmp_path) is None and last_complete_checkpoint(tmp_path / "nowhere") is None
    trainer = resumable_trainer(tmp_path, max_steps=1, save_steps=100)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 1


def test_checkpoints_hold_what_is_trained_and_two_are_kept(tmp_path):
    trainer = resumable_trainer(tmp_path, max_steps=4, save_total_limit=2)
    trainer.train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    with safe_open(tmp_path / "checkpoint-4" / TRAINED_WEIGHTS, "pt") as weights:
        assert set(weights.keys()) == trained
        for name in weights.keys():  # noqa: SIM118
            assert torch.equal(weights.get_tensor(name), trainer.model.state_dict()[name])
    assert json.loads((tmp_path / "checkpoint-4" / COMPLETE).read_text())["step"] == 4
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")


def test_the_oldest_checkpoint_goes_whatever_the_clock_says(tmp_path):
    resumable_trainer(tmp_path, max_steps=2, save_steps=1, save_total_limit=2).train()
    for checkpoint in tmp_path.glob("checkpoint-*"):  # the clock was ahead
        os.utime(checkpoint, (2e9, 2e9))
    resumable_trainer(tmp_path, max_steps=4, save_steps=1, save_total_limit=2).train(resume_from_checkpoint=True)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training of two checkpoints, and the weights of another one of the same shapes."""
    folders = [tmp_path_factory.mktemp(name) for name in ("run", "other")]
    for seed, folder in enumerate(folders):
        resumable_trainer(folder, max_steps=2, save_steps=1, learning_rate=0.01 * (seed + 1)).train()
    return folders[0], (folders[1] / "checkpoint-2" / TRAINED_WEIGHTS).read_bytes()


FILES = (TRAINED_WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "base.json", COMPLETE)


@pytest.mark.parametrize("name", [*FILES, "routing_state.json"])
@pytest.mark.parametrize("damage", ["half", "empty", "zeros", "missing", "another"])
def test_a_damaged_checkpoint_stops_the_run_by_its_name(stopped, tmp_path, name, damage):
    run, others = stopped
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint-2" / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
        if name == COMPLETE:
            assert last_complete_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-1")
            return
    elif damage == "another":
        file.write_bytes(others if name == TRAINED_WEIGHTS else content[:-1] + b"!")
    else:
        file.write_bytes({"half": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content))}[damage])
    with pytest.raises(UserError, match="checkpoint-2.*; delete .*checkpoint-2, then the training goes on from"):
        last_complete_checkpoint(tmp_path / "run")
    if (name, damage) == (TRAINED_WEIGHTS, "another"):
        trainer = resumable_trainer(tmp_path / "run", max_steps=3)
        for checkpoint in (True, str(file.parent)):
            with pytest.raises(UserError, match="checkpoint-2"):
                trainer.train(resume_from_checkpoint=checkpoint)
        shutil.rmtree(file.parent)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 3


def test_what_an_interruption_left_is_removed_and_takes_no_place_of_a_good_one(uninterrupted, tmp_path):
    accumulation, expected = uninterrupted
    options = {"accumulation": accumulation, "save_total_limit": 2}
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path, callbacks=[Kill(5)], **options).train()
    (tmp_path / "checkpoint-4" / "base.json").unlink()  # killed in the middle of its deletion
    (tmp_path / "checkpoint-6").mkdir()  # killed in the middle of its writing
    (tmp_path / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    resumed = resumable_trainer(tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_same(outcome(resumed), expected)
    assert complete_checkpoints(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in (STEPS - 1, STEPS)]
    assert not (tmp_path / "checkpoint-4").exists()


def test_an_older_checkpoint_that_decayed_is_named_too(stopped, tmp_path):
    """Else it would be among the files of the result."""
    shutil.copytree(stopped[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoint-1" / TRAINED_WEIGHTS).write_bytes(stopped[1])
    with pytest.raises(UserError, match=r"checkpoint-1 was changed .*; delete .*checkpoint-1, then the training goes"):
        last_complete_checkpoint(tmp_path / "run")


def test_the_newest_checkpoint_is_never_removed(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").unlink()
    (tmp_path / "run" / "checkpoint-3 (copy)").mkdir()
    delete_remains(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-3 (copy)").exists()
    with pytest.raises(UserError, match=r"optimizer.pt is missing"):
        last_complete_checkpoint(tmp_path / "run")


def test_a_checkpoint_at_the_end_of_an_epoch_holds_its_evaluation(tmp_path):
    """Else a run that is killed between the two goes on from there, and that epoch is never evaluated."""
    resumable_trainer(tmp_path, max_steps=4, eval_strategy="epoch").train()
    for step, evaluated in ((2, []), (3, [3]), (4, [3, 4])):
        log = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in log if "eval_wer" in entry] == evaluated


class Payload:
    """What a hostile checkpoint would run when it is read by pickle."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_runs_no_code(stopped, tmp_path, name):
    """Also if its marker was made for it: states are read as tensors and numbers alone."""
    shutil.copytree(stopped[0], tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint-2"
    (checkpoint / COMPLETE).unlink()
    torch.save({"state": Payload(tmp_path / "it_ran")}, checkpoint / name)
    mark_complete(checkpoint, {"step": 2})
    with pytest.raises(UserError, match=r"checkpoint-2 is damaged: .*; delete .*checkpoint-2"):
        resumable_trainer(tmp_path / "run", max_steps=3).train(resume_from_checkpoint=True)
    assert not (tmp_path / "it_ran").exists()


def test_other_folders_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-2", "checkpoint-old", "checkpoint-3 (copy)", "checkpoint-"):
        (tmp_path / name).mkdir()
        (tmp_path / name / COMPLETE).write_text("{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_checkpoints_are_compared_by_number(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / COMPLETE).write_text("{}")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_the_log_of_a_resumed_run_is_that_of_one_that_never_stopped(tmp_path):
    options = {"save_steps": 3, "logging_steps": 4}  # an entry spans a checkpoint
    whole = resumable_trainer(tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path / "killed", callbacks=[Kill(7)], **options).train()
    resumed = resumable_trainer(tmp_path / "killed", **options)
    resumed.train(resume_from_checkpoint=True)

    def entries(trainer: MoeTrainer) -> list[dict]:
        return [entry for entry in trainer.state.log_history if "loss" in entry]

    assert [entry["step"] for entry in entries(whole)] == [1, 3, 4, 6, 8, 9]
    assert entries(resumed) == entries(whole)
    assert resumed.last_loss == whole.last_loss
