"""Training arguments: precision, rarer checkpoints and evaluations, the best checkpoint."""

import json
import os

import pytest
import torch
from parsing import parse
from safetensors.torch import load_file
from tiny_speech import rows, tiny_processor, tiny_whisper, training_arguments

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("flags", "has_cuda", "has_bf16", "launched_with", "expected"),
    [
        ({}, False, False, "no", "no"),
        ({}, True, True, "no", "bf16"),
        ({}, True, False, "no", "fp16"),
        ({"fp16": True}, True, True, "no", "fp16"),
        ({"fp16": False}, True, True, "no", "no"),
        ({"no_fp16": True}, True, True, "bf16", "no"),
        ({}, True, True, "fp16", "fp16"),
    ],
)
def test_precision_is_automatic_with_cuda(tmp_path, monkeypatch, flags, has_cuda, has_bf16, launched_with, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16 or including_emulation)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched_with)
    if has_cuda:  # no GPU here: only the choice is looked at
        monkeypatch.setattr("transformers.training_args.TrainingArguments.__post_init__", mixed_precision_of_trainer)
    assert training_arguments(tmp_path, use_cpu=not has_cuda, **flags).mixed_precision == expected


def test_fp16_without_a_gpu_is_told(tmp_path, caplog):
    training_arguments(tmp_path, fp16=True)
    assert "fp16 needs a GPU, so this trains in float32; take --bf16" in caplog.text


def mixed_precision_of_trainer(self):
    self.mixed_precision = "fp16" if self.fp16 else "bf16" if self.bf16 else os.environ["ACCELERATE_MIXED_PRECISION"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"no_fp16": True, "fp16": True}, "leave one of them out"),
        ({"save_every_n_epochs": 0}, "--save_every_n_epochs must be at least 1, got 0"),
        ({"early_stopping_patience": 2}, "needs evaluations"),
        ({"load_best_model_at_end": True}, "eval_strategy is no and save_strategy is epoch; give both the same"),
        ({"save_total_limit": 1}, "--save_total_limit must be at least 2, got 1"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        parse(SpeechTrainingArguments, output_dir=tmp_path, use_cpu=True, **flags)


@pytest.mark.parametrize(
    "flag", ["predict_with_generate", "generation_num_beams", "dataloader_drop_last", "bf16_full_eval"]
)
def test_flags_of_transformers_that_would_do_nothing_are_none(flag):
    with pytest.raises(UserError, match=f"unknown argument '--{flag}"):
        parse_arguments(SpeechTrainingArguments, ["--output_dir=x", f"--{flag}=1"])


def test_checkpoints_and_evaluations_every_second_epoch_and_after_the_last(tmp_path):
    args = training_arguments(
        tmp_path,
        num_train_epochs=5,
        per_device_train_batch_size=4,
        save_every_n_epochs=2,
        eval_every_n_epochs=2,
        save_total_limit=10,
    )
    trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), rows(8), rows(3, first=50))
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-4",
        "checkpoint-8",
    ]
    evaluations = [entry for entry in trainer.state.log_history if "eval_wer" in entry]
    assert [entry["epoch"] for entry in evaluations] == [2, 4, 5]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["value"] == min(entry["eval_wer"] for entry in evaluations)
    assert (tmp_path / best["checkpoint"] / "complete").exists()


def test_early_stopping_keeps_the_best_weights(tmp_path, monkeypatch):
    scores = iter([0.5, 0.3, 0.4, 0.4, 0.1])
    args = training_arguments(
        tmp_path,
        num_train_epochs=5,
        per_device_train_batch_size=4,
        eval_every_n_epochs=1,
        save_every_n_epochs=1,
        early_stopping_patience=2,
        learning_rate=1e-2,
        save_total_limit=10,
    )
    trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), rows(8), rows(3, first=50))
    monkeypatch.setattr("hf_components.training.trainer.score", lambda *a, **k: {"wer": next(scores), "per_group": {}})
    trainer.train()
    assert trainer.state.epoch == 4
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == "checkpoint-4"
    kept = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(kept[name], value) for name, value in trainer.model.state_dict().items() if name in kept)
