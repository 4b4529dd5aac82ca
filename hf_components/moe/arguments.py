"""Arguments of the MoE-Whisper pipeline, and the mistakes that are found before anything runs."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hf_components.moe.benchmark.systems import FLAGS, choose_systems
from hf_components.runtime import PipelineArguments, UserError, flag
from hf_components.speech import language_code, require_splits
from hf_components.training import UNSELECTED

logger = logging.getLogger(__name__)


class Epochs(NamedTuple):
    """Epochs of each LoRA for all, of all experts, and of joint training."""

    shared: float
    experts: float
    joint: float


EPOCHS = {"quick": Epochs(4, 2, 1), "full": Epochs(5, 2, 2)}
FURTHER_RATE = 1e-4  # learning rate of the training that continues from the shared LoRA
EXPERT_RATE = 5e-4  # of experts, which shall differ: at 1e-4 they hardly did
GRADIENT_BATCH = 8  # utterances; a backward pass takes more memory than an embedding
# Full fine-tuning, which a mixture is compared with: same batches, warm-up and masks, and no selection on dev either.
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
    """Flags of the pipeline itself; its steps document their own.

    The other systems of the benchmark train for as many epochs as all trainings of the mixture together. Speakers that
    choose what is released take part in the training that follows the choice.
    """

    data: str = flag(
        "speaker-JSON folder (Train/, Dev/) or prepared corpus (folder, Hub id)", aliases=["--dataset_root"]
    )
    model: str = flag("base Whisper: folder or Hub id", default="models/whisper-tiny.en")
    data_percent: float = flag("per cent of every split that the steps take", default=100.0, above=0, max=100)
    max_samples: int | None = flag("utterances per split taken from a speaker-JSON folder", default=None, min=1)
    experts_per_utterance: int = flag(
        "experts of top-k routing, at most num_experts", default=2, min=1, aliases=["--top_k_experts", "--moe_top_k"]
    )
    expert_source: Literal["embedding", "error"] = flag(
        "what experts are found by; embedding: how utterances sound; error: how they would change the shared LoRA, "
        "then speakers move once to the expert with the lowest loss",
        default="embedding",
    )
    embedding_model: str | None = flag(
        "Whisper of the embeddings: v2, v3, folder, Hub id; default: model",
        default=None,
        aliases=["--whisper_model"],
        needs={"expert_source": "embedding"},
    )
    pooling: Literal["mean", "flatten"] = flag(
        "pooling of the embeddings that are clustered", default="mean", needs={"expert_source": "embedding"}
    )
    language: str = flag("language code, for multilingual checkpoints", default="en", read=language_code)
    shared_epochs: float | None = flag(
        "epochs of the LoRA that shared expert and single LoRA start from; default 4 or 5; 0: none",
        default=None,
        min=0,
    )
    shared_runs: int = flag(
        "independent LoRAs, by seed, order and speed, whose merge is the shared expert", default=1, min=1
    )
    expert_epochs: float | None = flag("epochs of expert pre-training; default 2", default=None, above=0)
    joint_epochs: float | None = flag("epochs of joint training; default 1 or 2", default=None, above=0)
    freeze_shared_expert: bool = flag("freeze the shared expert; if it moves, the experts overfit", default=True)
    single_lora_learning_rate: float | None = flag(
        "learning rate of the single LoRA, a baseline, after the shared one; default 1e-4", default=None, above=0
    )
    expert_learning_rate: float | None = flag(
        "learning rate of the experts over the shared LoRA; default 5e-4; 1e-4 makes experts that hardly differ",
        default=None,
        above=0,
    )
    selection_share: float = flag(
        "share of train, as whole speakers, that choose the released system; everything is then trained twice, "
        "without them and with everybody; 0: no choice, and one training",
        default=0.15,
        min=0,
        max=0.5,
    )
    ship: Literal["auto", "moe", "moe_merge", "choose", "merge", "shared_lora", "single_lora"] = flag(
        "system that is released in model/; auto: the best on the speakers of --selection_share, or a cheaper one "
        "that is not clearly worse; without such speakers the shared expert",
        default="auto",
    )
    folds: int | None = flag("cross-validation: divide all speakers into so many folds", default=None, min=2)
    fold: int | None = flag("cross-validation: fold to benchmark on, from 0", default=None, min=0)
    benchmark_percent: float = flag("per cent of the split to benchmark on", default=100.0, above=0, max=100)

    def __post_init__(self):
        if self.max_samples is not None and not self.is_speaker_folder:
            raise UserError(f"--max_samples chooses from a speaker-JSON folder, but {self.data} is prepared already")
        if (self.folds is None) != (self.fold is None) or (self.folds and self.fold >= self.folds):
            raise UserError(
                f"--folds and --fold go together, and the fold counts from 0: got fold {self.fold} of {self.folds}"
            )
        if self.shared_runs > 1 and self.shared_epochs == 0:
            raise UserError("--shared_runs merges trainings of the shared LoRA, but --shared_epochs 0 leaves it out")
        if self.expert_source == "error" and self.shared_epochs == 0:
            raise UserError(
                "--expert_source error takes gradients at the shared LoRA, but --shared_epochs 0 leaves it out"
            )

    @property
    def is_speaker_folder(self) -> bool:
        """Whether `data` is a speaker-JSON folder, which is still to be prepared."""
        return any(path.name.lower() in ("train", "dev") for path in Path(self.data).glob("*/"))

    @property
    def epochs(self) -> Epochs:
        given = (self.shared_epochs, self.expert_epochs, self.joint_epochs)
        usual = EPOCHS[self.mode]
        return Epochs(*(default if value is None else value for value, default in zip(given, usual, strict=True)))

    @property
    def total_epochs(self) -> float:
        """Epochs of all trainings of the mixture together."""
        trial = self.epochs.experts if self.expert_source == "error" else 0
        return self.epochs.shared * self.shared_runs + trial + self.epochs.experts + self.epochs.joint

    @property
    def further_rate(self) -> float | None:
        """Learning rate of the training that continues from the shared LoRA; None: see the step's configuration."""
        return self.single_lora_learning_rate or (FURTHER_RATE if self.epochs.shared else None)

    @property
    def expert_rate(self) -> float | None:
        """The learning rate of the experts; None: see the step's configuration."""
        return self.expert_learning_rate or (EXPERT_RATE if self.epochs.shared else None)

    @property
    def merged_runs(self) -> int:
        """Independent LoRAs of the merge that the mixture is compared with: as many as its own training could make."""
        return max(self.shared_runs + 1, round(self.total_epochs / self.epochs.shared))

    def division(self, *, choosing: bool) -> dict:
        """Who is held out, with the keys of `--data_config_override`; `choosing`: also who chooses the release."""
        folds = {} if self.folds is None else {"folds": self.folds, "fold": self.fold}
        return {**folds, **({"selection": self.selection_share} if choosing else {}), "seed": self.seed}

    def share(self, *, choosing: bool) -> str:
        """How much of every split the steps take, as `--data_config_override`."""
        return json.dumps({"percent": self.data_percent, **self.division(choosing=choosing)})


def other_embeddings(args: MoePipelineArguments, shared: Any, batch_size: int | None) -> dict[str, Any]:
    """Folder and flags of the embeddings that are clustered; empty if these are the router's.

    Args:
        shared: the shared LoRA, at which gradients are taken.
        batch_size: utterances per batch of the trainings of experts, which need as much memory.
    """
    if args.expert_source == "error":
        return {
            "folder": "gradients",
            "pooling": "gradient",
            "lora_model": shared,
            "batch_size": batch_size or GRADIENT_BATCH,
        }
    if args.embedding_model or args.pooling != "mean":
        return {
            "folder": "clustering_embeddings",
            "model": args.embedding_model or args.model,
            "pooling": args.pooling,
            "full_context_samples": 0,
            "language": None,  # has an effect on gradients only
        }
    return {}


def systems_of(args: MoePipelineArguments, passed_on: Any) -> list[str]:
    """The systems of the benchmark.

    Raises:
        UserError: the mixture is not among them, the system to release is not trained, or more experts per utterance
            are requested than there will be.
    """
    systems = choose_systems(
        passed_on.benchmark_models or f"zero_shot,single_lora,{'merge,choose,' if args.epochs.shared else ''}moe",
        dict.fromkeys(FLAGS, "trained here"),
    )
    if "moe" not in systems:
        raise UserError(f"benchmark_models must name moe, which the card describes, got {passed_on.benchmark_models}")
    if "choose" in systems and "merge" not in systems:
        raise UserError("choose is made of the LoRAs of merge; name merge in --benchmark_models too")
    if args.ship in ("single_lora", "merge", "choose") and args.ship not in systems:
        raise UserError(f"--ship {args.ship} needs that system; name it in --benchmark_models")
    if not args.epochs.shared and (args.ship == "shared_lora" or "merge" in systems):
        raise UserError("--shared_epochs 0 trains no LoRA for all, and shared_lora and merge are made of it; raise it")
    most = passed_on.num_experts
    if passed_on.algorithm != "group" and most is not None and args.experts_per_utterance > most:
        raise UserError(
            f"experts_per_utterance must lie in [1, num_experts = {most}], got {args.experts_per_utterance}"
        )
    return systems


def require_speaker_splits(data: str, corpus: str | Path, benchmark_split: str) -> None:
    """Raise `UserError` unless the corpus has what the mixture is trained and scored on."""
    advice = "a mixture is trained on some speakers and scored on others; divide the speakers between Train/ and Dev/"
    splits = require_splits(data, corpus, {"train", "dev"}, advice)
    if benchmark_split.lower() not in splits:
        raise UserError(f"{data} has no split {benchmark_split} to benchmark on; it has {', '.join(splits)}")


def at_most(experts_per_utterance: int, num_experts: int) -> int:
    """The requested number of experts per utterance, or all experts if there are fewer."""
    if experts_per_utterance > num_experts:
        logger.warning(
            "%d experts per utterance requested, using all %d that exist", experts_per_utterance, num_experts
        )
    return min(experts_per_utterance, num_experts)
