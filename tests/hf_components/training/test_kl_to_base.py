"""KL to the base: zero at the start, a pull towards the base, its schedule, and the base under an adapter."""

import copy

import pytest
import torch
from parsing import parse
from tiny_speech import (
    Kill,
    batch_of,
    gradient_near_base,
    rows,
    tiny_moe,
    tiny_processor,
    tiny_whisper,
    training_arguments,
)

from hf_components.runtime.errors import UserError
from hf_components.training.kl_to_base import KlToBaseArguments, KlToBaseTrainer
from hf_components.training.lora import LoraArguments, add_lora
from hf_components.training.teacher import BaseOfAdapter, Teacher
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit
KL_ALONE = {"kl_to_base_coef": 1e6}  # beside which the cross-entropy does not count


def trainer_of(folder, model, teacher, callbacks=(), kl=None, corpus=None, **options) -> KlToBaseTrainer:
    args = training_arguments(folder, **{"per_device_train_batch_size": 4, "full_context_fraction": 1.0, **options})
    return KlToBaseTrainer(
        model,
        args,
        tiny_processor(),
        corpus or rows(8),
        base=teacher,
        kl=KlToBaseArguments(**(kl or {"kl_to_base_coef": 0.5})),
        callbacks=list(callbacks),
    )


def lora_of(model):
    return add_lora(model, LoraArguments(lora_rank=2, lora_dropout=0.0))


def kl_of(trainer, full_context=True) -> float:
    """KL per token, as the loss has it beside the cross-entropy."""
    batch, coefficient = batch_of(trainer, full_context), trainer.loss_weights()[1]
    cross_entropy, _ = SpeechTrainer.loss_of_batch(trainer, trainer.model, dict(batch), None)
    return (trainer.compute_loss(trainer.model, dict(batch)) - cross_entropy).item() / coefficient


@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_zero_where_the_student_is_its_base_and_not_where_it_moved(tmp_path, finetuning):
    model = tiny_whisper()
    teacher = Teacher(copy.deepcopy(model)) if finetuning == "full" else BaseOfAdapter(lora_of(model))
    trainer = trainer_of(tmp_path, model, teacher)
    assert kl_of(trainer) == pytest.approx(0, abs=1e-4)
    moved = next(
        p
        for name, p in model.named_parameters()
        if p.requires_grad and name.endswith("lora_B.default.weight" if finetuning == "lora" else "fc1.weight")
    )
    with torch.no_grad():
        moved.add_(torch.randn_like(moved))
    assert kl_of(trainer) > 1e-3


def test_the_base_under_an_adapter_is_the_base_at_30_seconds(tmp_path):
    model = tiny_whisper()
    lora, base = lora_of(model), tiny_whisper()
    model.set_audio_context("dynamic", 100)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    trainer = trainer_of(tmp_path, model, BaseOfAdapter(lora))
    batch = batch_of(trainer)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.train()
    torch.testing.assert_close(trainer.teacher.log_probs(batch), Teacher(base).log_probs(batch))
    assert model.training and (model.audio_context, model.min_audio_context) == ("dynamic", 100)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trainable
    features, labels = batch["input_features"], batch["labels"]
    assert features.shape[-1] < 3000
    assert not torch.allclose(base(features, labels=labels).logits, model(features, labels=labels).logits)


@pytest.mark.parametrize("finetuning", ["full", "lora", "moe"])
def test_the_gradient_pulls_towards_the_base(tmp_path, finetuning):
    base = tiny_whisper()
    base.set_audio_context("dynamic", 50)
    model = tiny_moe() if finetuning == "moe" else tiny_whisper()
    teacher = BaseOfAdapter(lora_of(model)) if finetuning == "lora" else Teacher(base)
    if finetuning == "moe":
        model.train_only(experts=True, router=False)
    else:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "embed" not in name:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    # An adapter is held near its base at 30 s.
    trainer = trainer_of(
        tmp_path,
        model,
        teacher,
        kl=KL_ALONE,
        corpus=rows(2, seconds=0.8),
        num_train_epochs=12,
        learning_rate=5e-3,
        full_context_fraction=float(finetuning == "lora"),
    )
    trainer.train()
    kl = [entry["kl_to_base"] for entry in trainer.state.log_history if "kl_to_base" in entry]
    assert kl[-1] < 0.5 * kl[0]


def test_without_coefficient_it_is_plain_training(tmp_path):
    trainer = trainer_of(
        tmp_path, tiny_whisper(), Teacher(tiny_whisper()), kl={"kl_to_base_coef": 0}, num_train_epochs=1
    )
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss == SpeechTrainer.loss_of_batch(trainer, trainer.model, dict(batch), None)[0]
    trainer.train()
    assert not any(key.startswith("kl_to_base") for entry in trainer.state.log_history for key in entry)


def test_the_coefficient_goes_linearly_from_start_to_end(tmp_path):
    kl = KlToBaseArguments(kl_to_base_coef=0.8, kl_to_base_end=0.2)
    assert [kl.coefficient(p) for p in (0, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2])
    assert KlToBaseArguments(kl_to_base_coef=0.8).coefficient(0.7) == 0.8
    model = tiny_whisper()
    trainer = trainer_of(
        tmp_path,
        model,
        Teacher(copy.deepcopy(model)),
        num_train_epochs=2,
        kl={"kl_to_base_coef": 0.8, "kl_to_base_end": 0},
    )
    trainer.train()
    logged = [entry["kl_to_base_coef"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([0.8, 0.6, 0.4, 0.2])
    for name in ("kl_to_base_coef", "kl_to_base_end"):
        with pytest.raises(UserError, match=f"--{name} must be at least 0, got -1"):
            parse(KlToBaseArguments, **{"kl_to_base_coef": 1.0, name: -1})
    with pytest.raises(UserError, match="kl_to_base_end 0.1 needs a kl_to_base_coef above 0"):
        KlToBaseArguments(kl_to_base_end=0.1)


def test_accumulation_gives_the_same_gradient(tmp_path):
    whole, split = (gradient_near_base(tmp_path, *sizes) for sizes in ((8, 1), (2, 4)))
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=2e-5 * scale, rtol=1e-3)


def test_resuming_a_lora_beside_its_base_gives_the_same_bits(tmp_path):
    def trainer(folder, callbacks=(), **options):
        torch.manual_seed(0)
        model = tiny_whisper()
        lora = add_lora(model, LoraArguments(lora_rank=2, lora_dropout=0.2))
        return trainer_of(
            folder,
            model,
            BaseOfAdapter(lora),
            callbacks,
            kl={"kl_to_base_coef": 1.0, "kl_to_base_end": 0.1},
            num_train_epochs=2,
            learning_rate=5e-3,
            time_masks=2,
            full_context_fraction=0.0,
            **options,
        )

    whole = trainer(tmp_path / "whole")
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", [Kill(3)], **saving).train()
    resumed = trainer(tmp_path / "cut", **saving)
    resumed.train(resume_from_checkpoint=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
