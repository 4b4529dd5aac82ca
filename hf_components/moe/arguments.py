"""Arguments of the MoE-Whisper pipeline, and the mistakes that are told before anything runs."""

import logging
from dataclasses import dataclass, field
from typing import Literal

from hf_components.runtime import PipelineArguments, UserError
from hf_components.training import UNSELECTED

logger = logging.getLogger(__name__)

EPOCHS = {"quick": (4, 0.5, 1), "full": (5, 1, 2)}  # of the shared LoRA, of all experts, of joint training
FURTHER_RATE = 1e-4  # learning rate of what goes on from the shared LoRA
# Of the full fine-tuning that a mixture is compared with: batches, warm-up and masks as the mixture's, and no more
# selected on dev.
RIVAL = {
    "quick": UNSELECTED,
    "full": {
        **UNSELECTED,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "warmup_steps": 0.1,
        "time_masks": 2,
        "mel_masks": 2,
    },
}


@dataclass
class MoePipelineArguments(PipelineArguments):
    """What the pipeline itself asks for; the flags of its stages are documented there."""

    data: str = field(
        metadata={
            "help": "speaker-JSON folder (Train/, Dev/), or a prepared corpus: folder or Hub id",
            "aliases": ["--dataset_root"],
        }
    )
    model: str = field(default="models/whisper-tiny.en", metadata={"help": "base Whisper: folder or Hub id"})
    data_percent: float = field(
        default=100.0, metadata={"help": "share of every split that the stages take, in (0, 100]"}
    )
    max_samples: int | None = field(
        default=None, metadata={"help": "utterances per split taken from a speaker-JSON folder"}
    )
    experts_per_utterance: int = field(
        default=2,
        metadata={
            "help": "experts of top-k routing, at most as many as there are",
            "aliases": ["--top_k_experts", "--moe_top_k"],
        },
    )
    whisper_model: str | None = field(
        default=None,
        metadata={"help": "Whisper whose embeddings are clustered: v2, v3, folder or Hub id; default: the base model"},
    )
    pooling: Literal["mean", "flatten"] = field(
        default="mean", metadata={"help": "of the embeddings that are clustered"}
    )
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    shared_epochs: float | None = field(
        default=None,
        metadata={
            "help": "epochs of the LoRA that the shared expert and the single LoRA start from, default 4 "
            "or 5; 0: from nothing"
        },
    )
    expert_epochs: float | None = field(
        default=None, metadata={"help": "epochs of expert pre-training; default 0.5 or 1"}
    )
    joint_epochs: float | None = field(
        default=None,
        metadata={
            "help": "epochs of joint training, default 1 or 2; the benchmark's other systems train as "
            "long as all three together"
        },
    )
    freeze_shared_expert: bool = field(
        default=True,
        metadata={
            "help": "keep the shared expert as its LoRA was trained; experts trained beside a moving one overfit"
        },
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "of experts and single LoRA after the shared one, default 1e-4"}
    )
    benchmark_percent: float = field(
        default=100.0, metadata={"help": "share of the benchmark's split to draw a sample from"}
    )

    def __post_init__(self):
        for name in ("data_percent", "benchmark_percent"):
            if not 0 < getattr(self, name) <= 100:
                raise UserError(f"{name} must lie in (0, 100], got {getattr(self, name)}")
        if self.experts_per_utterance < 1:
            raise UserError(f"experts_per_utterance must be at least 1, got {self.experts_per_utterance}")

    @property
    def epochs(self) -> tuple[float, float, float]:
        """Of the shared LoRA, of all experts, of joint training."""
        given = (self.shared_epochs, self.expert_epochs, self.joint_epochs)
        return tuple(usual if value is None else value for value, usual in zip(given, EPOCHS[self.mode], strict=True))

    @property
    def further_rate(self) -> float | None:
        """Learning rate of what goes on from the shared LoRA; None for that of the stage's configuration."""
        return self.learning_rate or (FURTHER_RATE if self.epochs[0] else None)


def at_most(experts_per_utterance: int, num_experts: int) -> int:
    """As many experts per utterance as are asked for, or all there are."""
    if experts_per_utterance > num_experts:
        logger.warning(
            "%d experts per utterance are asked for, and there are %d: taking all", experts_per_utterance, num_experts
        )
    return min(experts_per_utterance, num_experts)
