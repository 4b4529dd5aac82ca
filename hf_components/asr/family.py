"""What one family of speech recognisers has to tell, so that everything else need not know which it deals with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import soxr
import torch
from transformers import AutoProcessor, FeatureExtractionMixin, PreTrainedModel, ProcessorMixin

from hf_components.checkpoints import load_model, load_processor
from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE

# Shorter clips are extended by silence: the first layers of encoders take up to 150 ms at once, and features
# normalised over time need several frames.
SHORTEST_SAMPLES = SAMPLING_RATE // 5

# (processor, clips at its sampling rate, language) -> what `generate` takes
Request = Callable[[ProcessorMixin, Sequence[np.ndarray], str], Mapping[str, Any]]


class Family(ABC):
    """Models that are fed and read alike.

    Attributes:
        name: as shown to users.
        model_classes: `model_type` of a configuration -> class that loads such a checkpoint.
        longest_seconds: of one piece of audio. Most models were trained on 30 to 40 s at most, and attention costs
            the square of the length; longer recordings are cut.
        has_mel_features: `inputs` are log-mel `input_features (batch, n_mels, frames)` with a mask over frames, which
            training masks by SpecAugment.
    """

    name: str
    model_classes: Mapping[str, type]
    longest_seconds: float = 30.0
    has_mel_features: bool = False

    def load(
        self, name_or_path: str, fields: Mapping, language: str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[PreTrainedModel, ProcessorMixin]:
        """Model in evaluation mode on this process's device, and its processor.

        Args:
            fields: of the checkpoint's configuration.
            language: code such as "en", for families whose checkpoints carry their prompt; by default as they were
                saved.
            dtype: of the weights.
        Raises:
            UserError: there is no such checkpoint, or it lacks weights.
        """
        model = load_model(self.model_classes[fields["model_type"]], name_or_path, dtype)
        return model, load_processor(name_or_path, AutoProcessor)

    def heard_seconds(self, model: PreTrainedModel, seconds: float) -> float:
        """What a clip counts for in a batch: its length with padding, at least 1 s, since its text takes memory
        too."""
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
        """What `forward` and `generate` take for a batch, on the CPU, attention mask included where the model uses
        one.

        Args:
            waveforms: float32 (samples,) each at 16 kHz, at most `longest_seconds`.
            language: code such as "en", for families that are prompted with each request; by default "en".
            full_context: pad to the longest input of families that have one (Whisper's 30 s), else to the longest
                clip.
        """

    @abstractmethod
    def decode(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        inputs: Mapping[str, torch.Tensor],
        *,
        max_new_tokens: int,
        num_beams: int,
    ) -> list[str]:
        """Texts of a batch of `inputs`.

        Args:
            max_new_tokens: bound on each text, for decoders that write token by token until they stop.
            num_beams: 1 is greedy.
        Raises:
            UserError: the model cannot decode so.
        """

    def tokenize(self, processor: ProcessorMixin, text: str) -> list[int]:
        """Token ids that the model learns to write.

        Raises:
            UserError: the family is served for transcription only.
        """
        raise UserError(f"{self.name} models are served for transcription, not for training")


def rate_of(processor: ProcessorMixin) -> int:
    """The sampling rate in Hz that a checkpoint hears; its processor may call its feature extractor by another
    name."""
    (extractor,) = (part for part in vars(processor).values() if isinstance(part, FeatureExtractionMixin))
    return extractor.sampling_rate


def heard(processor: ProcessorMixin, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The clips at the checkpoint's sampling rate, those under `SHORTEST_SAMPLES` extended by silence."""
    rate = rate_of(processor)
    clips = [np.pad(clip, (0, max(0, SHORTEST_SAMPLES - len(clip)))) for clip in waveforms]
    return clips if rate == SAMPLING_RATE else [soxr.resample(clip, SAMPLING_RATE, rate) for clip in clips]


def extract(processor: ProcessorMixin, waveforms: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Features padded to the longest clip, with an attention mask only where the checkpoint's extractor asks for one:
    models normalised over groups (wav2vec2-base) were trained on zeros without a mask."""
    return dict(
        processor.feature_extractor(
            heard(processor, waveforms), sampling_rate=rate_of(processor), padding=True, return_tensors="pt"
        )
    )


def unprompted(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """A `Request` of nothing but the audio, padded to the longest clip."""
    return processor(audio=clips, sampling_rate=rate_of(processor), padding=True, return_tensors="pt")


def ask(
    name: str, request: Request, processor: ProcessorMixin, waveforms: Sequence[np.ndarray], language: str | None
) -> dict[str, torch.Tensor]:
    """Tensors of a request, for a language that is "en" unless told.

    Raises:
        UserError: the models of that name do not know the language.
    """
    language = language or "en"
    try:
        inputs = request(processor, heard(processor, waveforms), language)
    except ValueError as error:
        raise UserError(f"{name} cannot be asked for language {language!r}: {error}") from error
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


def place(inputs: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Inputs on the model's device, real numbers in its type."""
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }


def check_greedy(name: str, num_beams: int) -> None:
    """Raises `UserError` for beams of a model without a beam search."""
    if num_beams != 1:
        raise UserError(f"{name} models decode greedily: num_beams must be 1, got {num_beams}")
