"""Before a training its peak memory is told, as the plan predicts it, and a warning where there is less."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper, training_arguments

from hf_components.moe import ExpertArguments, MoeTrainer, RoutingArguments, loss_of_routing, mixture
from hf_components.training import TrainingStep, finetuned, memory_estimate, predict_peak
from hf_components.training.fit import BESIDE_TENSORS, GIB
from hf_components.training.memory_estimate import free_for, longest_step, predicted, tell_memory
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.integration
ROWS = rows(8)  # of which the longest has 0.94 s
WINDOW = 30.0


@pytest.fixture(autouse=True)
def told(monkeypatch, caplog):
    """What is logged before trainings, tiny ones too."""
    monkeypatch.setattr(memory_estimate, "SMALLEST", 0)
    caplog.set_level(logging.INFO, memory_estimate.__name__)
    with caplog.filtering(logging.Filter(memory_estimate.__name__)):
        yield caplog


def trainer_of(folder, model=None, corpus=ROWS, **options) -> SpeechTrainer:
    args = training_arguments(folder, **{"per_device_train_batch_size": 4, "max_steps": 1, **options})
    return SpeechTrainer(model or tiny_whisper(), args, tiny_processor(), corpus)


def with_free(monkeypatch, trainer: SpeechTrainer, free: int) -> None:
    """So many bytes are there for the tensors of a training."""
    held = free_for(trainer) - memory_estimate.free_memory(torch.device("cpu"))
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: free - held)


def test_line_before_the_first_step(told, tmp_path):
    trainer_of(tmp_path, bf16=True).train()
    (line,) = told.messages
    assert re.fullmatch(
        r"predicted peak memory: \d+\.\d\d GiB \(DynamicContextWhisper, batches of 4 clips of up to 0\.9 s and "
        r"\d+ tokens, bf16\); free on cpu: \d+\.\d\d GiB",
        line,
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_prediction_is_that_of_the_plan(tmp_path, share, checkpointing):
    trainer = trainer_of(tmp_path, full_context_fraction=share, gradient_checkpointing=checkpointing)
    step = longest_step(trainer)
    assert step.seconds == (WINDOW if share else max(ROWS["duration"]))
    plan = TrainingStep(4, step.seconds, step.tokens, gradient_checkpointing=checkpointing)
    assert predicted(trainer, step) == pytest.approx(predict_peak(finetuned(trainer.model.config), plan), rel=0.03)


def test_joint_training_is_that_of_the_plan(tmp_path):
    model = tiny_moe(routing="hard")
    model.train_only(experts=True, router=True)
    args = training_arguments(tmp_path, per_device_train_batch_size=4, max_steps=1)
    routing = RoutingArguments(soft_routing_epochs=1)
    trainer = MoeTrainer(model, args, tiny_processor(), ROWS, routing=routing)
    step = longest_step(trainer)
    build = mixture(
        tiny_whisper().config,
        ExpertArguments(lora_rank=2, lora_dropout=0.0, shared_expert=True),
        experts=model.config.num_experts,
        train_router=True,
        routing="soft",
        router_hidden_size=8,
        min_audio_context=50,
    )
    expected = predict_peak(build, TrainingStep(4, step.seconds, step.tokens), loss_of_routing)
    assert predicted(trainer, step) == pytest.approx(expected, rel=0.03)
    assert model.config.routing == "hard"  # the copy alone was changed


def test_longest_clips_are_joined_slowed_and_seen_twice(tmp_path):
    plain = longest_step(trainer_of(tmp_path))
    slow = longest_step(trainer_of(tmp_path, speed_factors=[0.5, 1.0]))
    assert slow.seconds == 2 * plain.seconds
    joined = longest_step(trainer_of(tmp_path, concatenate=0.5, concatenate_seconds=2.0))
    assert joined.seconds == 2 and joined.tokens == 2 * plain.tokens
    both = trainer_of(tmp_path, consistency_coef=1.0, time_masks=1)
    assert predicted(both, longest_step(both)) > 1.5 * predicted(trainer_of(tmp_path), plain)


def test_warning_names_a_batch_that_fits(monkeypatch, told, tmp_path):
    trainer = trainer_of(tmp_path, per_device_train_batch_size=16, gradient_accumulation_steps=2)
    limit = predicted(trainer, longest_step(trainer)) // 2
    with_free(monkeypatch, trainer, limit)
    tell_memory(trainer)
    warning = told.records[-1]
    assert warning.levelno == logging.WARNING and "will not fit into the memory of cpu" in warning.message
    batch, accumulation = map(int, re.findall(r"(?:batch_size|steps) (\d+)", warning.message))
    assert 2 <= batch < 16 and batch * accumulation >= 32 and warning.message.endswith(", or gradient_checkpointing")
    fits = trainer_of(tmp_path, per_device_train_batch_size=batch)
    assert 0.6 * limit <= predicted(fits, longest_step(fits)) <= limit


def test_nothing_fits(monkeypatch, told, tmp_path):
    trainer = trainer_of(tmp_path, gradient_checkpointing=True)
    with_free(monkeypatch, trainer, 1000)
    tell_memory(trainer)
    assert told.messages[-1].endswith("; not even one utterance does: take a smaller model, or train a LoRA")


def test_what_fits_is_silent(monkeypatch, told, tmp_path):
    trainer = trainer_of(tmp_path)
    with_free(monkeypatch, trainer, predicted(trainer, longest_step(trainer)))
    tell_memory(trainer)
    assert [record.levelno for record in told.records] == [logging.INFO]


def test_free_memory_of_a_gpu_and_of_processes_that_share_a_machine(monkeypatch, tmp_path):
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 8 * GIB)
    held = sum(value.nbytes for value in (*trainer.model.parameters(), *trainer.model.buffers()))
    assert free_for(trainer) == 8 * GIB + held
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_for(trainer) == 2 * GIB + held
    trainer.args = SimpleNamespace(device=torch.device("cuda"))
    assert free_for(trainer) == 8 * GIB - BESIDE_TENSORS  # the model is not there yet


def test_nothing_in_the_training_changes(monkeypatch, tmp_path):
    def weights() -> list[torch.Tensor]:
        model = tiny_moe(lora_dropout=0.2, routing="soft")
        model.train_only(experts=True, router=True)
        trainer = trainer_of(tmp_path, model, max_steps=2, time_masks=2)
        trainer.train()
        return list(trainer.model.parameters())

    told = weights()
    monkeypatch.setattr("hf_components.training.trainer.tell_memory", lambda trainer: None)
    assert all(map(torch.equal, told, weights()))


def test_failing_prediction_does_not_stop_a_training(monkeypatch, told, tmp_path):
    def fail(model, batch):
        raise RuntimeError("looks at values\nmore of it")

    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(trainer, "loss_without_values", fail)
    trainer.train()
    assert trainer.state.global_step == 1
    assert told.messages == ["the memory that this training takes cannot be predicted (looks at values); it starts"]


def test_toys_are_not_predicted(monkeypatch, told, tmp_path):
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(memory_estimate, "SMALLEST", trainer.model.num_parameters() + 1)
    tell_memory(trainer)
    assert not told.messages
