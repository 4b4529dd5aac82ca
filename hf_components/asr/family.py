"""The interface of a family of speech recognisers. All other code uses models only through it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from transformers import AutoProcessor, FeatureExtractionMixin, PreTrainedModel, ProcessorMixin

from hf_components.checkpoints import load_model, load_processor
from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE, language_code

# Shorter clips are extended with silence: the first layers of encoders need up to 150 ms of input, and normalisation
# over time needs several frames.
SHORTEST_SAMPLES = SAMPLING_RATE // 5

# (processor, clips at its sampling rate, language) -> inputs of `generate`
Request = Callable[[ProcessorMixin, Sequence[np.ndarray], str], Mapping[str, Any]]


class Family(ABC):
    """Models with the same kind of inputs and outputs.

    Attributes:
        name: name that users see.
        model_classes: `model_type` of a configuration -> class that loads such a checkpoint.
        longest_seconds: greatest length of one piece of audio; longer recordings are cut. Most models were trained on
            30 to 40 s at most, and the cost of attention grows with the square of the length.
        has_mel_features: `inputs` are log-mel `input_features (batch, n_mels, frames)` with a mask over frames, which
            training masks with SpecAugment.
    """

    name: str
    model_classes: Mapping[str, type]
    longest_seconds: float = 30.0
    has_mel_features: bool = False

    def load(
        self, name_or_path: str, fields: Mapping, language: str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[PreTrainedModel, ProcessorMixin]:
        """Load a model, in evaluation mode on this process's device, and its processor.

        Args:
            fields: fields of the checkpoint's configuration.
            language: code such as "en", for families whose checkpoints store their prompt; by default the saved one.
            dtype: type of the weights.
        Raises:
            UserError: there is no such checkpoint, or it lacks weights.
        """
        model = load_model(self.model_classes[fields["model_type"]], name_or_path, dtype)
        return model, load_processor(name_or_path, AutoProcessor)

    def heard_seconds(self, model: PreTrainedModel, seconds: float) -> float:
        """Seconds that a clip counts in a batch: its length with padding, and at least 1 s (its text needs memory)."""
        return max(seconds, 1.0)

    @abstractmethod
    def inputs(
        self,
        processor: ProcessorMixin,
        waveforms: Sequence[np.ndarray],
        *,
        language: str | None = None,
        full_context: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Inputs of `forward` and `generate` for a batch, on the CPU, with an attention mask if the model uses one.

        Args:
            waveforms: float32 (samples,) each at 16 kHz, at most `longest_seconds`.
            language: code such as "en", for families with a prompt in each request; by default "en".
            full_context: pad to the longest input of the family, if it has one (30 s for Whisper), instead of to the
                longest clip.
        """

    @abstractmethod
    def decode(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        inputs: Mapping[str, torch.Tensor],
        *,
        max_new_tokens: int,
        num_beams: int | None,
    ) -> list[str]:
        """Texts of a batch of `inputs`.

        Args:
            max_new_tokens: limit of tokens per text, for decoders that write token by token.
            num_beams: width of the beam search; 1 is greedy, None is what the checkpoint says, else greedy.
        Raises:
            UserError: the model cannot decode with these settings.
        """

    def tokenize(self, processor: ProcessorMixin, text: str) -> list[int]:
        """Token ids that the model learns to write. Raises UserError if the family is for transcription only."""
        raise UserError(f"{self.name} models are supported for transcription, not for training")


def rate_of(processor: ProcessorMixin) -> int:
    """The sampling rate of a checkpoint in Hz; the name of the feature extractor differs between processors."""
    (extractor,) = (part for part in vars(processor).values() if isinstance(part, FeatureExtractionMixin))
    return extractor.sampling_rate


def heard(processor: ProcessorMixin, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The clips at the checkpoint's sampling rate; those shorter than `SHORTEST_SAMPLES` are extended with silence."""
    rate = rate_of(processor)
    clips = [np.pad(clip, (0, max(0, SHORTEST_SAMPLES - len(clip)))) for clip in waveforms]
    return clips if rate == SAMPLING_RATE else [soxr.resample(clip, SAMPLING_RATE, rate) for clip in clips]


def extract(processor: ProcessorMixin, waveforms: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Features padded to the longest clip, with an attention mask only if the checkpoint's extractor is set to return
    one: models with group normalisation (wav2vec2-base) were trained on zeros without a mask."""
    clips = heard(processor, waveforms)
    rate = rate_of(processor)
    return dict(processor.feature_extractor(clips, sampling_rate=rate, padding=True, return_tensors="pt"))


def unprompted(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """A `Request` with only the audio, padded to the longest clip."""
    return processor(audio=clips, sampling_rate=rate_of(processor), padding=True, return_tensors="pt")


def ask(
    name: str, request: Request, processor: ProcessorMixin, waveforms: Sequence[np.ndarray], language: str | None
) -> dict[str, torch.Tensor]:
    """Tensors of a request in a language ("en" by default). Raises UserError if the model does not know it."""
    language = language_code(language or "en")
    try:
        inputs = request(processor, heard(processor, waveforms), language)
    except ValueError as error:
        raise UserError(f"{name} cannot transcribe language {language!r}: {error}") from error
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def place(inputs: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Inputs on the model's device; floating-point tensors also in its type."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }


def check_greedy(name: str, num_beams: int | None) -> None:
    """Raise UserError if beams are requested from a model without a beam search."""
    if num_beams not in (None, 1):
        raise UserError(f"{name} models decode greedily: num_beams must be 1, got {num_beams}")
