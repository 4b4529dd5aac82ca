"""Fine-tune a recogniser of any family: all of it, all but its encoder or its decoder, or a LoRA."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import datasets
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback

from hf_components.asr import family_of
from hf_components.reporting import show
from hf_components.runtime import UserError, flag
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.ema import trained_weights
from hf_components.training.kl_to_base import KlToBaseArguments, KlToBaseTrainer
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.training.report import save_history
from hf_components.training.sharding import refuse_sharding
from hf_components.training.start import average_with_start
from hf_components.training.teacher import BaseOfAdapter, Teacher
from hf_components.whisper import DynamicContextWhisper

BASE_SHARE = (
    "share of the base's weights in the saved ones, 0.5: half way between base and trained. More of what the base "
    "knows stays, which helps where transcripts have errors"
)


@dataclass
class FinetuningArguments:
    """What is trained of a model."""

    finetuning: Literal["full", "lora"] = flag(
        "all weights, or a LoRA, saved to <output_dir>/adapter and merged to <output_dir>/model", default="full"
    )
    freeze_encoder: bool = flag("train the decoder only; of a CTC model, its last layer", default=False)
    freeze_decoder: bool = flag("train the encoder only", default=False)
    base_share: float = flag(BASE_SHARE, default=0.0, min=0, below=1)

    def __post_init__(self):
        if self.freeze_encoder and self.freeze_decoder:
            raise UserError("--freeze_encoder and --freeze_decoder together leave nothing to train; give one of them")

    @property
    def freeze(self) -> str | None:
        """The part that is not trained: "encoder" or "decoder", or None."""
        return "encoder" if self.freeze_encoder else "decoder" if self.freeze_decoder else None


@dataclass
class Finetuned:
    """A finished training.

    Attributes:
        trainer: its trainer, with the whole model.
        lora: the LoRA in that model, if only this was trained.
        trained_parameters: number of parameters that were trained.
    """

    trainer: KlToBaseTrainer
    processor: ProcessorMixin
    lora: PeftModel | None
    trained_parameters: int

    def save(self, folder: Path, title: str, plot: bool, *, merge: bool = True) -> None:
        """Write `adapter` for a LoRA, `model` (with `merge` also for a LoRA), `history.json` and the curves.

        Every process must call this.
        """
        model = self.trainer.whole_model()
        if not self.trainer.is_world_process_zero():
            return
        if self.lora is not None:
            save_lora(self.lora, folder / "adapter")
            model = self.lora.merge_and_unload() if merge else None
        if model is not None:
            family_of(model).save(model, self.processor, folder / "model")
        save_history(self.trainer, folder, title, plot)


def frozen_copy(model: PreTrainedModel) -> Teacher:
    """The model as it is now, to stay close to; a Whisper hears 30 s, as `BaseOfAdapter` does."""
    base = copy.deepcopy(model)
    if isinstance(base, DynamicContextWhisper):
        base.set_audio_context("full")
    return Teacher(base)


@dataclass
class FinetuningSettings:
    """How a model is fine-tuned.

    Args:
        finetuning: what is trained of it.
        training: settings of the trainer; `finetune` takes another `output_dir`, for checkpoints.
        lora: settings of a LoRA, if one is trained.
        kl: weight of KL(base || model), which keeps the model close to its base.
        language: code such as "en", for families with a prompt in each request.
        head_learning_rate: rate of a CTC model's last layer, if it is another than that of the other layers.
        callbacks: callbacks of the trainer, beside its own.
    """

    finetuning: FinetuningArguments
    training: SpeechTrainingArguments
    lora: LoraArguments = field(default_factory=LoraArguments)
    kl: KlToBaseArguments = field(default_factory=KlToBaseArguments)
    language: str | None = None
    head_learning_rate: float | None = None
    callbacks: Sequence[TrainerCallback] = ()


def finetune(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    train: datasets.Dataset,
    evaluated: datasets.Dataset | None,
    settings: FinetuningSettings,
    folder: Path,
    *,
    resume: bool,
) -> Finetuned:
    """Train a model on rows that it can learn from (see `keep_learnable`), with checkpoints in `folder`.

    Args:
        evaluated: rows for evaluations during training; None without them.
    Raises:
        UserError: models of this family cannot be trained, or not with these settings.
    """
    base, lora = prepare_model(model, settings)
    total = model.num_parameters()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    check_trainable(model, trained, settings)
    show(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}) on {len(train)} recordings")
    training = copy.copy(settings.training)  # its caller still needs the folder of the result
    training.output_dir = str(folder / "checkpoints")
    trainer = KlToBaseTrainer(
        model,
        training,
        processor,
        train,
        evaluated,
        kl=settings.kl,
        base=base,
        language=settings.language,
        callbacks=list(settings.callbacks),
        head_learning_rate=settings.head_learning_rate,
    )
    share_of_base = settings.finetuning.base_share
    start = None
    if share_of_base:
        refuse_sharding(trainer.accelerator, "base_share")
        start = {name: weights.clone() for name, weights in trained_weights(model).items()}
    trainer.train(resume_from_checkpoint=resume)
    if start is not None:
        average_with_start(model, start, share_of_base)
    return Finetuned(trainer, processor, lora, trained)


def prepare_model(model: PreTrainedModel, settings: FinetuningSettings) -> tuple[Teacher | None, PeftModel | None]:
    """Freeze what is not trained, or add a LoRA; return the base to stay close to, and the LoRA."""
    freeze = settings.finetuning.freeze
    family_of(model).prepare_for_training(model, freeze=freeze)
    if settings.finetuning.finetuning == "lora":
        lora = add_lora(model, settings.lora, freeze=freeze)
        return BaseOfAdapter(lora), lora
    return frozen_copy(model) if settings.kl.kl_to_base_coef else None, None


def check_trainable(model: PreTrainedModel, trained: int, settings: FinetuningSettings) -> None:
    """Raise UserError if nothing is left to train, or the model does not support a setting of the trainer.

    Args:
        trained: number of parameters that are trained.
    """
    if not trained:
        raise UserError(
            f"nothing is left to train of {model.name_or_path} with its {settings.finetuning.freeze} frozen; freeze "
            "nothing"
        )
    args = settings.training
    if (args.gradient_checkpointing or args.activation_checkpointing) and not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} does not support --gradient_checkpointing; leave it out")
