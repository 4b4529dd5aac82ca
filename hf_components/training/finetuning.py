"""Fine-tune a recogniser of any family: all of it, all but its encoder or its decoder, or a LoRA."""

import copy
from dataclasses import dataclass
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


def finetune(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    train: datasets.Dataset,
    evaluated: datasets.Dataset | None,
    args: FinetuningArguments,
    lora_args: LoraArguments,
    training_args: SpeechTrainingArguments,
    folder: Path,
    *,
    resume: bool,
    kl: KlToBaseArguments | None = None,
    language: str | None = None,
    callbacks: list[TrainerCallback] | None = None,
    head_learning_rate: float | None = None,
) -> Finetuned:
    """Train a model on rows that it can learn from (see `keep_learnable`), with checkpoints in `folder`.

    Args:
        evaluated: rows for evaluations during training; None without them.
        kl: weight of KL(base || model), which keeps the model close to its base.
        language: code such as "en", for families with a prompt in each request.
        head_learning_rate: rate of a CTC model's last layer, if it is another than that of the other layers.
    Raises:
        UserError: models of this family cannot be trained, or not with these settings.
    """
    family = family_of(model)
    family.prepare_for_training(model, freeze=args.freeze)
    base = frozen_copy(model) if kl and kl.kl_to_base_coef and args.finetuning == "full" else None
    lora = add_lora(model, lora_args, freeze=args.freeze) if args.finetuning == "lora" else None
    total = model.num_parameters()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not trained:
        raise UserError(
            f"nothing is left to train of {model.name_or_path} with its {args.freeze} frozen; freeze nothing"
        )
    checkpointing = training_args.gradient_checkpointing or training_args.activation_checkpointing
    if checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"{type(model).__name__} does not support --gradient_checkpointing; leave it out")
    show(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}) on {len(train)} recordings")
    training_args.output_dir = str(folder / "checkpoints")
    trainer = KlToBaseTrainer(
        model,
        training_args,
        processor,
        train,
        evaluated,
        kl=kl,
        base=base if lora is None else BaseOfAdapter(lora),
        language=language,
        callbacks=callbacks,
        head_learning_rate=head_learning_rate,
    )
    start = None
    if args.base_share:
        refuse_sharding(trainer.accelerator, "base_share")
        start = {name: weights.clone() for name, weights in trained_weights(model).items()}
    trainer.train(resume_from_checkpoint=resume)
    if start is not None:
        average_with_start(model, start, args.base_share)
    return Finetuned(trainer, processor, lora, trained)
