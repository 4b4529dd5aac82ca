"""Distillation: its loss against a hand computation, who moves and who does not, accumulation, resume."""

import pytest
import torch
from parsing import parse
from tiny_speech import (
    GradientRecorder,
    Kill,
    batch_of,
    rows,
    tiny_moe,
    tiny_processor,
    tiny_whisper,
    training_arguments,
)

from hf_components.moe.distillation import DistillationArguments, DistillationTrainer
from hf_components.moe.merging import merge_experts
from hf_components.runtime.errors import UserError
from hf_components.training.teacher import Teacher
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper.losses import labels_to_decoder_input

pytestmark = pytest.mark.unit


def arguments(folder, **options) -> DistillationArguments:
    return training_arguments(folder, DistillationArguments, **{"per_device_train_batch_size": 4, **options})


def trainer_of(folder, teacher=None, student=None, callbacks=(), corpus=None, **options) -> DistillationTrainer:
    return DistillationTrainer(
        student or tiny_whisper(),
        arguments(folder, **options),
        tiny_processor(),
        corpus or rows(8),
        teacher=Teacher(teacher or tiny_moe()),
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("full_context", [False, True])
@pytest.mark.parametrize("routing", [{"routing": "hard"}, {"routing": "top_k", "mixture": "logits"}], ids=str)
def test_loss_is_the_weighted_sum_of_both(tmp_path, routing, full_context):
    teacher, student = tiny_moe(**routing), tiny_whisper()
    trainer = trainer_of(tmp_path, teacher, student, kl_weight=0.3)
    batch = batch_of(trainer, full_context)
    loss = trainer.compute_loss(student, dict(batch), num_items_in_batch=50)
    real, start = batch["labels"] != -100, labels_to_decoder_input(batch["labels"], student.config)
    with torch.no_grad():
        fitted, mask = teacher.fit_inputs(batch["input_features"], batch["attention_mask"])
        target = teacher(fitted, attention_mask=mask, decoder_input_ids=start).logits.log_softmax(-1)
        output = student(batch["input_features"], decoder_input_ids=start).logits.log_softmax(-1)
    kl = (target.exp() * (target - output)).sum(-1)[real].sum()
    cross_entropy = -output.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0][real].sum()
    torch.testing.assert_close(loss, (0.3 * kl + 0.7 * cross_entropy) / 50, atol=1e-5, rtol=1e-4)
    if full_context:
        assert batch["input_features"].shape[-1] == 3000 and fitted.shape[-1] < 200  # each in its own context


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it(tmp_path):
    teacher = tiny_moe()
    with torch.no_grad():
        for layer in teacher.routed_layers().values():
            layer.lora_b.zero_()
    trainer = trainer_of(
        tmp_path, teacher, merge_experts(teacher, [1, 0, 0]), kl_weight=1.0, corpus=rows(4, seconds=0.8)
    )
    assert trainer.compute_loss(trainer.model, batch_of(trainer)).item() == pytest.approx(0, abs=1e-5)


def test_without_teacher_it_is_plain_training(tmp_path):
    gradients = []
    for kind, more in ((DistillationTrainer, {"teacher": Teacher(tiny_moe())}), (SpeechTrainer, {})):
        recorder = GradientRecorder()
        kind(
            tiny_whisper(),
            arguments(tmp_path, kl_weight=0.0, max_steps=1),
            tiny_processor(),
            rows(8),
            callbacks=[recorder],
            **more,
        ).train()
        gradients.append(recorder.steps[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], msg=name)


@pytest.mark.parametrize("kl_weight", [0.2, 1.0])
def test_the_student_learns_and_the_teacher_stays(tmp_path, kl_weight):
    teacher, student, recorder = tiny_moe(), tiny_whisper(), GradientRecorder()
    kept, started = (
        {name: value.clone() for name, value in model.state_dict().items()} for model in (teacher, student)
    )
    trainer = trainer_of(
        tmp_path, teacher, student, [recorder], kl_weight=kl_weight, num_train_epochs=15, learning_rate=1e-2
    )
    trainer.train()
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, started[name])}
    assert moved >= recorder.steps[0].keys() and "model.encoder.embed_positions.weight" not in moved
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses, kl = ([entry[key] for entry in logged] for key in ("loss", "distillation_kl"))
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    if kl_weight == 1.0:
        assert losses == pytest.approx(kl, rel=1e-2)


def test_accumulation_gives_the_same_gradient(tmp_path):
    found = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        recorder = GradientRecorder()
        trainer_of(
            tmp_path,
            callbacks=[recorder],
            corpus=rows(8, seconds=0.6),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
        ).train()
        found.append(recorder.steps[0])
    scale = max(float(gradient.abs().max()) for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=2e-5 * scale, rtol=1e-3)


def test_resuming_gives_the_same_bits(tmp_path):
    options = {
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "time_masks": 2,
        "mel_masks": 2,
        "full_context_fraction": 0.3,
    }
    whole = trainer_of(tmp_path / "whole", **options)
    whole.train()
    saving = {**options, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "cut", callbacks=[Kill(3)], **saving).train()
    resumed = trainer_of(tmp_path / "cut", **saving)
    resumed.train(resume_from_checkpoint=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_what_cannot_be_distilled_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--kl_weight must lie in \[0, 1\], got 1.5"):
        parse(DistillationArguments, output_dir=tmp_path, use_cpu=True, kl_weight=1.5)
    other = tiny_whisper()
    other.config.vocab_size += 1
    with pytest.raises(UserError, match="must write the same tokens, but their vocab_size is"):
        trainer_of(tmp_path, student=other)
