"""Arguments of every recipe that trains a Whisper."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.training_args import OptimizerNames

from hf_components.runtime import SEEDS, PlotArguments, ResumeArguments, add_bounds, flag, tracker_flag
from hf_components.speech import language_code, unreadable_flag
from hf_components.training.augmentation import AugmentationArguments
from hf_components.training.regularisation import RegularisationArguments

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
SAVE_STEPS = 500  # default of transformers
# Fields of transformers that are no flags of a recipe. `hf_components.publishing` publishes the finished result;
# batches, loss, checkpoints and evaluation are our own; processes are joined before any flag is read.
NO_FLAGS = """
    push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision
    dataloader_drop_last dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
    train_sampling_strategy length_column_name sortish_sampler average_tokens_across_devices label_smoothing_factor
    label_names predict_with_generate generation_max_length generation_num_beams generation_config
    prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_use_gather_object batch_eval_metrics
    include_for_metrics fp16_full_eval bf16_full_eval do_train do_eval do_predict resume_from_checkpoint
    ignore_data_skip save_only_model save_on_each_node enable_jit_checkpoint restore_callback_states_from_checkpoint
    skip_memory_metrics parallelism_config ddp_timeout ddp_backend local_rank debug
""".split()  # noqa: SIM905 -- a list would have a line for each name
# Without selection of a checkpoint on dev, figures on dev are unbiased.
UNSELECTED = {"eval_strategy": "no", "early_stopping_patience": 0}


@dataclass(kw_only=True)
class TrainingRecipeArguments(ResumeArguments, PlotArguments):
    """Flags of every recipe that trains a Whisper."""

    corpus: str = flag("prepared corpus: folder or Hub id")
    model: str = flag(
        f"Whisper checkpoint: folder, Hub id, or OpenAI's {', '.join(VARIANTS)}",
        default="models/whisper-tiny.en",
        aliases=["--variant", "--base_model"],
    )
    language: str = flag("language code, for multilingual checkpoints", default="en", read=language_code)
    data_config_override: str | None = flag(
        'part of the splits to use: JSON with sampling, percent, max_samples, seed, such as {"percent": 50}',
        default=None,
    )
    unreadable_rows: str = unreadable_flag()
    eval_split: str = flag("split for evaluations during training", default="dev", needs="eval_strategy")

    def __post_init__(self):
        if self.model in VARIANTS and not Path(self.model).exists():
            self.model = f"openai/whisper-{self.model}"


def _with_fewer_flags(kind: type, names: Collection[str]) -> type:
    """A dataclass with the same fields, of which some always have their default, so that they are no flags."""
    fixed = [
        (one.name, one.type, field(default=one.default, default_factory=one.default_factory, init=False))
        for one in fields(kind)
        if one.name in names
    ]
    return make_dataclass(kind.__name__, fixed, bases=(kind,))


@dataclass
class SpeechTrainingArguments(
    AugmentationArguments, RegularisationArguments, _with_fewer_flags(Seq2SeqTrainingArguments, NO_FLAGS)
):
    """`Seq2SeqTrainingArguments` with defaults and additional arguments for speech.

    A stage that continues the training of another one needs another `data_seed`, else it starts with the same batches
    and masks. Batches with 30 s of audio context (`full_context_fraction`) keep the checkpoint good in stock Whisper.
    """

    full_context_fraction: float = flag(
        "share of batches with 30 s of audio context", default=0.04, min=0, max=1, needs={"audio_context": "dynamic"}
    )
    max_new_tokens: int = flag("longest transcript in evaluation, in tokens", default=225, min=1)
    data_seed: int | None = flag("seed of order, augmentation and audio context; default: seed", default=None, **SEEDS)
    output_dir: str = flag("folder of the result; required", default="")
    per_device_train_batch_size: int = flag("utterances per step and device", default=8, min=1)
    per_device_eval_batch_size: int = flag("utterances per evaluation batch and device", default=16, min=1)
    learning_rate: float = flag("peak learning rate; the default suits LoRA", default=5e-4, above=0)
    warmup_steps: float = flag("warm-up, as steps or as a fraction of training below 1", default=0.1, min=0)
    eval_strategy: str = flag("when to evaluate during training: no, steps or epoch", default="no")
    save_strategy: str = flag("when to write checkpoints: no, steps or epoch", default="epoch")
    save_every_n_epochs: int | None = flag(
        "save a checkpoint every n epochs and after the last; sets save_strategy to epoch", default=None, min=1
    )
    eval_every_n_epochs: int | None = flag(
        "evaluate every n epochs and after the last; sets eval_strategy to epoch", default=None, min=1
    )
    early_stopping_patience: int | None = flag(
        "stop after n evaluations without a lower WER, and use the best checkpoint; 0: never", default=None, min=0
    )
    metric_for_best_model: str = flag(
        "metric that selects the checkpoint in best.json", default="wer", needs="eval_strategy"
    )
    greater_is_better: bool = flag(
        "whether a larger value of that metric is better", default=False, needs="eval_strategy"
    )
    fp16: bool | None = flag(
        "mixed precision with float16; default on CUDA: bf16 if supported, else fp16",
        default=None,
        nargs="?",
        const=True,
    )
    bf16: bool | None = flag("mixed precision with bfloat16", default=None, nargs="?", const=True)
    no_fp16: bool = flag("train in float32 even on a GPU", default=False)
    rebase_output_dir: bool = flag("move an earlier result to archive/<name>_<time> beside it", default=False)
    save_total_limit: int = flag(
        "checkpoints kept; at least 2, so that one is always complete", default=2, min=2, needs="save_strategy"
    )
    logging_steps: float = flag("steps between log entries", default=10, above=0, needs={"logging_strategy": "steps"})
    logging_first_step: bool = flag("log the first step too", default=True, needs={"logging_strategy": "steps"})
    report_to: str = tracker_flag()
    remove_unused_columns: bool = field(
        default=False, init=False, metadata={"help": "Of transformers; not a flag: rows are read as the sampler drew."}
    )

    def __post_init__(self):
        self.check_augmentation()
        # A number of steps between evaluations or checkpoints switches them on.
        if self.eval_steps is not None and self.eval_strategy == "no":
            self.eval_strategy = "steps"
        if self.save_steps != SAVE_STEPS and self.save_strategy == "epoch":
            self.save_strategy = "steps"
        if self.save_every_n_epochs:
            self.save_strategy = "epoch"
        if self.eval_every_n_epochs:
            self.eval_strategy = "epoch"
        if self.early_stopping_patience:
            if self.eval_strategy == "no":
                raise ValueError("early_stopping_patience needs evaluations; set eval_every_n_epochs or eval_strategy")
            self.load_best_model_at_end = self.restore_callback_states_from_checkpoint = True
        if self.load_best_model_at_end:
            self._check_strategies()
        if self.data_seed is None:
            self.data_seed = self.seed
        self._choose_precision()
        super().__post_init__()
        if self.no_fp16:
            self.mixed_precision = "no"  # whatever `accelerate launch` says

    def _check_strategies(self) -> None:
        evaluates, saves = (getattr(way, "value", way) for way in (self.eval_strategy, self.save_strategy))
        if evaluates != saves and saves != "best":
            raise ValueError(
                f"load_best_model_at_end needs an evaluation of every checkpoint, but eval_strategy is {evaluates} "
                f"and save_strategy is {saves}; give both the same"
            )

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
        if self.fp16 and (self.use_cpu or not torch.cuda.is_available()):
            logger.warning("fp16 needs a GPU, so this trains in float32; take --bf16, or leave --fp16 out")
        self.fp16 = bool(self.fp16)
        self.bf16 = bool(self.bf16)


OPTIMIZERS_WITH_BETAS = tuple(
    name.value for name in OptimizerNames if any(kind in name.value for kind in ("adam", "ademamix", "lion", "apollo"))
)
CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
TRACKIO = {"needs": {"report_to": "trackio"}}

add_bounds(
    SpeechTrainingArguments,
    {
        "num_train_epochs": {"above": 0, "needs": {"max_steps": -1, "debug_run": False}},
        "max_steps": {"min": -1},
        "weight_decay": {"min": 0},
        "adam_beta1": {"min": 0, "below": 1, "needs": {"optim": OPTIMIZERS_WITH_BETAS}},
        "adam_beta2": {"min": 0, "below": 1, "needs": {"optim": OPTIMIZERS_WITH_BETAS}},
        "adam_epsilon": {"above": 0, "needs": {"optim": OPTIMIZERS_WITH_BETAS}},
        "gradient_accumulation_steps": {"min": 1},
        "max_grad_norm": {"min": 0},
        "neftune_noise_alpha": {"min": 0},
        "torch_empty_cache_steps": {"min": 1},
        "eval_steps": {"above": 0, "needs": {"eval_strategy": "steps"}},
        "eval_delay": {"min": 0, "needs": "eval_strategy"},
        "save_steps": {"above": 0, "needs": {"save_strategy": "steps"}},
        "seed": SEEDS,
        "dataloader_num_workers": {"min": 0},
        "ddp_bucket_cap_mb": {"min": 1},
        "dataloader_persistent_workers": {"needs": "dataloader_num_workers"},
        "fsdp_config": {"needs": "fsdp"},
        "activation_checkpointing_kwargs": {"needs": CHECKPOINTING},
        "gradient_checkpointing_kwargs": {"needs": CHECKPOINTING},
        "liger_kernel_config": {"needs": "use_liger_kernel"},
        "run_name": {"needs": "report_to"},
        "project": TRACKIO,
        "trackio_space_id": TRACKIO,
        "trackio_bucket_id": TRACKIO,
        "trackio_static_space_id": TRACKIO,
    },
)


@dataclass
class CtcTrainingArguments(SpeechTrainingArguments):
    """`SpeechTrainingArguments` without the arguments of decoders that write token by token."""

    full_context_fraction: float = field(default=0.0, init=False, metadata={"help": "Of Whisper; not a flag here."})
    max_new_tokens: int = field(default=225, init=False, metadata={"help": "Of other decoders; not a flag here."})


@dataclass
class FinetuningTrainingArguments(SpeechTrainingArguments):
    """`SpeechTrainingArguments` of recipes that train all weights, unless a LoRA is asked for."""

    learning_rate: float = flag(
        "peak learning rate; the default suits all weights, and 5e-4 a LoRA", default=1e-5, above=0
    )


def warn_of_learning_rate(args: SpeechTrainingArguments, finetuning: str) -> None:
    """Warn if the learning rate is unusual for training all weights ("full") or a LoRA ("lora")."""
    lowest, highest = USUAL_RATES[finetuning]
    if not lowest <= args.learning_rate <= highest:
        text = "learning_rate %g is unusual for %s fine-tuning; it usually lies between %g and %g"
        logger.warning(text, args.learning_rate, finetuning, lowest, highest)
