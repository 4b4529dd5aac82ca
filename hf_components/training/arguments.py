"""Training arguments of every recipe that trains a Whisper."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from hf_components.training.augmentation import AugmentationArguments

logger = logging.getLogger(__name__)

VARIANTS = (
    "tiny",
    "tiny.en",
    "base",
    "base.en",
    "small",
    "small.en",
    "medium",
    "medium.en",
    "large",
    "large-v2",
    "large-v3",
    "large-v3-turbo",
)
USUAL_RATES = {"full": (1e-6, 1e-4), "lora": (5e-5, 5e-3)}
UNSELECTED = {
    "eval_strategy": "no",
    "early_stopping_patience": 0,
}  # the last checkpoint is kept: figures on dev are honest


@dataclass(kw_only=True)
class TrainingRecipeArguments:
    """What every recipe that trains a Whisper asks for."""

    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    base_model: str = field(
        default="models/whisper-tiny.en",
        metadata={
            "help": f"Whisper checkpoint: folder, Hub id, or a variant of OpenAI's: {', '.join(VARIANTS)}",
            "aliases": ["--variant"],
        },
    )
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    data_config_override: str | None = field(
        default=None,
        metadata={
            "help": "how much of the splits to take: JSON with sampling, percent, max_samples, seed, as "
            'in {"percent": 50}'
        },
    )
    eval_split: str = field(default="dev", metadata={"help": "split that evaluations in training transcribe"})
    plot: bool = field(default=True, metadata={"help": "draw the curves of training"})
    resume: bool = field(default=False, metadata={"help": "keep a finished result, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})

    def __post_init__(self):
        if self.base_model in VARIANTS and not Path(self.base_model).exists():
            self.base_model = f"openai/whisper-{self.base_model}"


def _published_elsewhere(default: bool | str | None) -> Any:
    return field(
        default=default,
        init=False,
        metadata={
            "help": "Of transformers; no flag, since what is published is the finished result, as "
            "hf_components.publishing.hub does it."
        },
    )


def _without_effect(**default: Any) -> Any:
    return field(
        **default,
        init=False,
        metadata={
            "help": "Of transformers; no flag, since batches are our own, and so is evaluation, which "
            "transcribes and scores."
        },
    )


@dataclass
class SpeechTrainingArguments(AugmentationArguments, Seq2SeqTrainingArguments):
    """`Seq2SeqTrainingArguments` with the defaults of speech, and what only speech has."""

    full_context_fraction: float = field(
        default=0.04,
        metadata={
            "help": "Share of training batches with 30 s of audio context, which keep the checkpoint "
            "good in stock Whisper."
        },
    )
    max_new_tokens: int = field(default=225, metadata={"help": "Longest transcript in evaluation, in tokens."})
    data_seed: int | None = field(
        default=None,
        metadata={
            "help": "Seed of order, augmentation and audio context; seed by default. A stage that "
            "continues another's training "
            "takes another, else it begins with the same batches and the same masks."
        },
    )
    output_dir: str = field(default="", metadata={"help": "Folder of the result; required."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Utterances per step and device."})
    per_device_eval_batch_size: int = field(
        default=16, metadata={"help": "Utterances per evaluation batch and device."}
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate; the default suits LoRA."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up, as steps or as a fraction of training below 1."}
    )
    eval_strategy: str = field(default="no", metadata={"help": "When to evaluate in training: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write checkpoints: no, steps or epoch."})
    save_every_n_epochs: int | None = field(
        default=None,
        metadata={
            "help": "Write a checkpoint after every so many epochs, and after the last; sets save_strategy to epoch."
        },
    )
    eval_every_n_epochs: int | None = field(
        default=None,
        metadata={"help": "Evaluate after every so many epochs, and after the last; sets eval_strategy to epoch."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a smaller WER, and keep the best "
            "checkpoint's weights; 0: never."
        },
    )
    metric_for_best_model: str = field(
        default="wer", metadata={"help": "Metric by which best.json names a checkpoint."}
    )
    greater_is_better: bool = field(default=False, metadata={"help": "Whether more of that metric is better."})
    fp16: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Mixed precision with float16. On CUDA the default is bf16, or fp16 where the GPU has no bf16.",
        },
    )
    bf16: bool | None = field(
        default=None, metadata={"nargs": "?", "const": True, "help": "Mixed precision with bfloat16."}
    )
    no_fp16: bool = field(default=False, metadata={"help": "Train in float32 even on a GPU."})
    rebase_output_dir: bool = field(
        default=False,
        metadata={"help": "Move an earlier result to archive/<name>_<time> beside it instead of replacing it."},
    )
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints kept; two, so that one is always whole."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log entries."})
    logging_first_step: bool = field(
        default=True, metadata={"help": "Log the first step too, so that short runs have a log."}
    )
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, trackio, wandb, none, ..."})
    debug: str = field(
        default="", init=False, metadata={"help": "Of transformers; no flag, since --debug is a recipe's own."}
    )
    push_to_hub: bool = _published_elsewhere(False)
    hub_model_id: str | None = _published_elsewhere(None)
    hub_strategy: str = _published_elsewhere("every_save")
    hub_token: str | None = _published_elsewhere(None)
    hub_private_repo: bool | None = _published_elsewhere(None)
    hub_always_push: bool = _published_elsewhere(False)
    hub_revision: str | None = _published_elsewhere(None)
    dataloader_drop_last: bool = _without_effect(default=False)
    dataloader_prefetch_factor: int | None = _without_effect(default=None)
    train_sampling_strategy: str = _without_effect(default="random")
    length_column_name: str = _without_effect(default="length")
    sortish_sampler: bool = _without_effect(default=False)
    predict_with_generate: bool = _without_effect(default=False)
    generation_max_length: int | None = _without_effect(default=None)
    generation_num_beams: int | None = _without_effect(default=None)
    generation_config: str | None = _without_effect(default=None)
    prediction_loss_only: bool = _without_effect(default=False)
    eval_accumulation_steps: int | None = _without_effect(default=None)
    eval_do_concat_batches: bool = _without_effect(default=True)
    eval_use_gather_object: bool = _without_effect(default=False)
    batch_eval_metrics: bool = _without_effect(default=False)
    include_for_metrics: list[str] = _without_effect(default_factory=list)
    fp16_full_eval: bool = _without_effect(default=False)
    bf16_full_eval: bool = _without_effect(default=False)
    do_predict: bool = _without_effect(default=False)
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept False: batches come from our own collator."}
    )

    def __post_init__(self):
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor must be 0, since the loss is the model's own; got "
                f"{self.label_smoothing_factor}"
            )
        for name, least in (("save_every_n_epochs", 1), ("eval_every_n_epochs", 1), ("early_stopping_patience", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.check_augmentation()
        if self.save_total_limit == 1:  # the old one goes before the new one is whole
            raise ValueError("save_total_limit must be at least 2, so that one checkpoint is always whole; got 1")
        if self.save_every_n_epochs:
            self.save_strategy = "epoch"
        if self.eval_every_n_epochs:
            self.eval_strategy = "epoch"
        if self.early_stopping_patience:
            if self.eval_strategy == "no":
                raise ValueError("early_stopping_patience needs evaluations; set eval_every_n_epochs or eval_strategy")
            self.load_best_model_at_end = self.restore_callback_states_from_checkpoint = True
        if self.data_seed is None:
            self.data_seed = self.seed
        self._choose_precision()
        super().__post_init__()
        if self.no_fp16:
            self.mixed_precision = "no"  # whatever `accelerate launch` says

    def _choose_precision(self) -> None:
        if self.no_fp16 and (self.fp16 or self.bf16):
            raise ValueError("no_fp16 trains in float32 and excludes fp16 and bf16; leave one of them out")
        launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.fp16 is None and self.bf16 is None and not self.no_fp16:
            automatic = launched_with == "no" and torch.cuda.is_available() and not self.use_cpu
            self.bf16 = launched_with == "bf16" or (
                automatic and torch.cuda.is_bf16_supported(including_emulation=False)
            )
            self.fp16 = launched_with == "fp16" or (automatic and not self.bf16)
        self.fp16, self.bf16 = bool(self.fp16), bool(self.bf16)


def warn_of_learning_rate(args: SpeechTrainingArguments, finetuning: str) -> None:
    """Say that a learning rate is of another order than what trains all weights ("full") or a LoRA ("lora")."""
    lowest, highest = USUAL_RATES[finetuning]
    if not lowest <= args.learning_rate <= highest:
        logger.warning(
            "learning_rate %g is unusual for %s fine-tuning; it usually lies between %g and %g",
            args.learning_rate,
            finetuning,
            lowest,
            highest,
        )
