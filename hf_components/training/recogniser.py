"""The recogniser that a training starts from: what it sees, what it ends with, and what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import load_asr, with_ctc_head
from hf_components.checkpoints import writes
from hf_components.runtime import flag
from hf_components.training.arguments import VARIANTS, TrainingRecipeArguments
from hf_components.whisper import DynamicContextWhisper


@dataclass(kw_only=True)
class RecogniserArguments(TrainingRecipeArguments):
    """Flags of a recipe that trains a recogniser of any family."""

    model: str = flag(
        f"recogniser of any family that can be trained: folder, Hub id, or Whisper of OpenAI's {', '.join(VARIANTS)}",
        default="models/whisper-tiny.en",
        aliases=["--variant", "--base_model"],
    )
    audio_context: Literal["dynamic", "full"] = flag(
        "audio context of a Whisper in training and evaluation: as long as the audio, or always 30 s",
        default="dynamic",
    )
    min_audio_context: int = flag(
        "shortest dynamic context in mel frames of 10 ms; saved with the model",
        default=200,
        min=2,
        max=3000,
        needs={"audio_context": "dynamic"},
    )
    head: Literal["own", "ctc"] = flag(
        "own: the model's output layer; ctc: a new one over the encoder of a Whisper or of a CTC model, which writes "
        "the characters of the transcripts, one per frame",
        default="own",
    )
    head_learning_rate: float = flag(
        "learning rate of the new head, which knows nothing yet, while the encoder below it knows much",
        default=0.01,
        above=0,
        needs={"head": "ctc"},
    )

    @property
    def own_head_learning_rate(self) -> float | None:
        """Learning rate of the last layer; None if it is that of the other layers."""
        return self.head_learning_rate if self.head == "ctc" else None


def load_to_train(
    args: RecogniserArguments, target: str, texts: Sequence[str]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The recogniser to train, and its processor.

    Args:
        target: what it is to write, see `TargetArguments`.
        texts: transcripts of the training data, for the vocabulary of a new head.
    Raises:
        UserError: the model cannot be loaded, or a new head does not go on it.
    """
    model, processor = load_asr(args.model, args.language)
    if isinstance(model, DynamicContextWhisper):
        model.set_audio_context(args.audio_context, args.min_audio_context)
    if args.head == "ctc":
        model, processor = with_ctc_head(model, processor, texts)
    if writes(model) != target:  # the configuration of other models stays stock
        model.config.writes = target
    return model, processor
