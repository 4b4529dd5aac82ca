"""Predict before a training how much memory it will take, and warn if there is less.

Every `trainer` here is a `SpeechTrainer`, which calls `tell_memory`.
"""

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from accelerate import DistributedType
from transformers import Trainer

from hf_components.runtime import free_memory
from hf_components.speech import SAMPLING_RATE
from hf_components.training.fit import BESIDE_TENSORS, GIB, TrainingStep, predict_peak, without_weights

logger = logging.getLogger(__name__)

# Parameters. The training of a smaller model fits everywhere, and may take less time than its prediction.
SMALLEST = 1_000_000
LONGEST_TEXTS = 16  # of so many texts with the most characters, one has nearly always the most tokens
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True)
class LongestStep(TrainingStep):
    """A step of a training with its longest clips.

    Attributes:
        one: a batch with one utterance.
    """

    one: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def batch(self, model):
        return {
            name: torch.zeros(self.batch_size * len(value), *value.shape[1:], dtype=value.dtype)
            for name, value in self.one.items()
        }

    def __str__(self) -> str:
        checkpointing = ", gradient checkpointing" if self.gradient_checkpointing else ""
        precision = "float32" if self.precision == "no" else self.precision
        return (
            f"batches of {self.batch_size} clips of up to {self.seconds:.1f} s and {self.tokens} tokens, "
            f"{precision}{checkpointing}"
        )


def tell_memory(trainer: Trainer) -> None:
    """Log the memory that a training will take at most, and what is free; warn if that is less, and say what helps.

    The prediction takes a step on fake tensors, see `predict_peak`. If that fails, the training goes on without it.
    """
    model = trainer.model
    if not trainer.is_world_process_zero() or model.num_parameters() < SMALLEST:
        return
    if trainer.accelerator.distributed_type in SHARDED:
        why = "its weights are spread over processes"
        logger.info("the memory that this training takes cannot be predicted (%s); it starts", why)
        return
    try:
        step = longest_step(trainer)
        peak = predicted(trainer, step)
        free = free_for(trainer)
        fitting = step.batch_size if peak <= free else largest_batch(trainer, step, peak, free)
    except Exception as error:  # whatever a model does with tensors that have no values
        why = str(error).partition("\n")[0]
        logger.info("the memory that this training takes cannot be predicted (%s); it starts", why)
        return
    place = trainer.args.device
    name = model.name_or_path or type(model).__name__
    text = "predicted peak memory: %.2f GiB (%s, %s); free on %s: %.2f GiB"
    logger.info(text, peak / GIB, name, step, place, free / GIB)
    if fitting < step.batch_size:
        logger.warning("this training will not fit into the memory of %s; %s", place, remedy(trainer, step, fitting))


def longest_step(trainer: Trainer) -> LongestStep:
    """The step that takes most memory: all its clips and texts are as long as the longest."""
    args = trainer.args
    seconds = longest_seconds(trainer)
    labels = longest_labels(trainer)
    item = {
        "id": "",
        "epoch": 0,
        "full_context": args.full_context_fraction > 0,
        "waveform": torch.zeros(round(SAMPLING_RATE * seconds)).numpy(),
        "labels": labels,
    }
    if trainer.train_dataset.expert_weights is not None:
        item["expert_weights"] = trainer.train_dataset.expert_weights[0]
    hears_all = trainer.family.has_mel_features and item["full_context"]
    return LongestStep(
        batch_size=trainer._train_batch_size,
        seconds=trainer.family.longest_seconds if hears_all else seconds,
        tokens=len(labels),
        precision=trainer.accelerator.mixed_precision,
        gradient_checkpointing=args.gradient_checkpointing or args.activation_checkpointing,
        one=trainer.data_collator([item]),
    )


def longest_seconds(trainer: Trainer) -> float:
    """Length of the longest clip, joined with another one, or slowed down."""
    args = trainer.args
    longest = max(trainer.durations[:])
    if args.concatenate:
        longest = max(longest, args.concatenate_seconds)
    slowed = longest / min([1.0, *args.speed_factors])
    return max(longest, min(slowed, trainer.family.longest_seconds))


def longest_labels(trainer: Trainer) -> list[int]:
    """Tokens of the longest transcript; twice these, if clips are joined."""
    family = trainer.family
    texts = sorted(trainer.train_dataset.corpus["text"][:], key=len)[-LONGEST_TEXTS:]
    labels = max((family.tokenize(trainer.processing_class, text) for text in texts), key=len)
    if trainer.args.concatenate:
        labels = labels * 2
    return labels[: family.longest_labels(trainer.model)]


def predicted(trainer: Trainer, step: LongestStep) -> int:
    """Peak bytes of each process."""
    build = functools.partial(without_weights, trainer.model)
    peak = predict_peak(build, step, trainer.loss_without_values, gpu=trainer.args.device.type == "cuda")
    if trainer.accelerator.num_processes > 1:  # DDP has a second copy of the gradients, in buckets
        peak += sum(value.nbytes for value in trainer.model.parameters() if value.requires_grad)
    return peak


def free_for(trainer: Trainer) -> int:
    """Bytes that are there for the tensors of each process: what is free, and where the model already is."""
    device = trainer.args.device
    model = trainer.model
    held = sum(value.nbytes for value in (*model.parameters(), *model.buffers()) if value.device.type == device.type)
    free = free_memory(device)
    if device.type == "cuda":
        return free + held - BESIDE_TENSORS
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) + held  # processes share the machine's memory


def largest_batch(trainer: Trainer, step: LongestStep, peak: int, free: int) -> int:
    """The largest batch that fits, below that of a step which does not; 0: none does.

    Between two batches memory lies below the line through their peaks, see `largest_batches`.
    """
    alone = predicted(trainer, replace(step, batch_size=1))
    if alone > free:
        return 0
    return 1 + int((free - alone) * (step.batch_size - 1) / (peak - alone))


def remedy(trainer: Trainer, step: LongestStep, fitting: int) -> str:
    """What to do if batches of at most `fitting` utterances fit."""
    if fitting:
        accumulated = -(-step.batch_size * trainer.args.gradient_accumulation_steps // fitting)
        advice = f"take per_device_train_batch_size {fitting} and gradient_accumulation_steps {accumulated}"
    else:
        advice = "not even one utterance does: take a smaller model, or train a LoRA"
    can_save = trainer.model.supports_gradient_checkpointing and not step.gradient_checkpointing
    return f"{advice}, or gradient_checkpointing" if can_save else advice
