"""The interface of a family of speech recognisers. All other code uses models only through it."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from transformers import (
    AutoProcessor,
    FeatureExtractionMixin,
    PreTrainedModel,
    ProcessorMixin,
    Wav2Vec2FeatureExtractor,
)

from hf_components.asr.words import Word, in_words
from hf_components.checkpoints import load_model, load_processor, save_processor
from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE, language_code, plain_text

# Shorter clips are extended with silence: the first layers of encoders need up to 150 ms of input, and normalisation
# over time needs several frames.
SHORTEST_SAMPLES = SAMPLING_RATE // 5

ONLY_TRANSCRIBE = "are supported for transcription, not for training"

# (processor, clips at its sampling rate, language) -> inputs of `generate`
Request = Callable[[ProcessorMixin, Sequence[np.ndarray], str], Mapping[str, Any]]


class Scores(NamedTuple):
    """What `Family.score` finds for a batch with known texts.

    Attributes:
        loss: -log p of the texts, summed over the batch, a scalar with its gradient. float32 under autocast too.
        outputs: the output of the model.
        logits: `(batch, positions, vocabulary)`, by which two outputs are compared; None for transducers, which have
            a distribution for each pair of frame and token.
        real: positions that count in a comparison, bool `(batch, positions)`; None like `logits`.
    """

    loss: torch.Tensor
    outputs: Any
    logits: torch.Tensor | None = None
    real: torch.Tensor | None = None


class Family(ABC):
    """Models with the same kind of inputs and outputs, and how they learn.

    Families that can be trained have `tokenize`, `score` and `lora_layers`.

    Attributes:
        name: name that users see.
        model_classes: `model_type` of a configuration -> class that loads such a checkpoint.
        longest_seconds: greatest length of one piece of audio; longer recordings are cut. Most models were trained on
            30 to 40 s at most, and the cost of attention grows with the square of the length.
        has_mel_features: `inputs` are log-mel `input_features (batch, n_mels, frames)` with a mask over frames, which
            training masks with SpecAugment. For other families it masks the waveforms.
        has_beams: whether `decode` can search with several beams.
        lora_layers: names of the linear layers that carry a LoRA, unless the user names others.
    """

    name: str
    model_classes: Mapping[str, type]
    longest_seconds: float = 30.0
    has_mel_features: bool = False
    has_beams: bool = True
    lora_layers: Sequence[str] = ()

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

    def words(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        waveforms: Sequence[np.ndarray],
        texts: Sequence[str],
        *,
        language: str | None = None,
    ) -> list[list[Word]]:
        """The words of texts that the model has written, with its confidence in each.

        The confidence comes from one more pass of the decoder over the known texts.

        Args:
            waveforms, language: see `inputs`.
            texts: what the model wrote for each clip.
        Raises:
            UserError: models of this family do not tell how probable a text is.
        """
        labels = [self.tokenize(processor, text) for text in texts]
        batch = self.training_batch(processor, waveforms, labels, language=language)
        scores = self.score(model, place(batch, model))
        if scores.logits is None:
            raise UserError(f"{self.name} models do not tell the confidence of their words")
        log_probs = scores.logits.float().log_softmax(dim=-1).cpu()
        found = []
        for text, ids, row, real in zip(texts, labels, log_probs, scores.real.cpu(), strict=True):
            spoken = processor.tokenizer(plain_text(text), add_special_tokens=False).input_ids
            row = row[real][-len(ids) :]  # the text ends with one token that ends it
            row = row[-len(spoken) - 1 : -1]
            written = row[torch.arange(len(spoken)), torch.tensor(spoken)].tolist()
            # Checkpoints differ in whether they begin a text with a space.
            spaced = processor.tokenizer(f" {plain_text(text)}", add_special_tokens=False).input_ids
            written[:1] = row[0, list({spoken[0], spaced[0]})].logsumexp(dim=0, keepdim=True).tolist()
            found.append(in_words(text, processor.tokenizer.convert_ids_to_tokens(spoken), written))
        return found

    def packed(self, model_type: str, language: str | None) -> dict[str, Any] | None:
        """How `hf_components/submission/main.py` runs such a checkpoint with transformers alone; None: it cannot.

        `kind` names a branch of its `decode`, `class` the auto class that loads the checkpoint.
        """
        return None

    # How they learn

    def tokenize(self, processor: ProcessorMixin, text: str) -> list[int]:
        """Token ids that the model learns to write. Raises UserError if the family is for transcription only."""
        raise UserError(f"{self.name} models {ONLY_TRANSCRIBE}")

    def training_batch(
        self,
        processor: ProcessorMixin,
        waveforms: Sequence[np.ndarray],
        labels: Sequence[Sequence[int]],
        *,
        language: str | None = None,
        full_context: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Inputs of `score`: those of `inputs`, with `labels (batch, tokens)`, where -100 is nothing to learn.

        Args:
            labels: ids of `tokenize` for each clip.
        """
        batch = self.inputs(processor, waveforms, language=language, full_context=full_context)
        return {**batch, "labels": padded(labels, -100)}

    def score(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """How probable the model finds the texts of a training batch, by one call of its `forward`."""
        outputs = model(**batch)
        real = batch["labels"] != -100
        return Scores(outputs.loss * real.sum(), outputs, outputs.logits, real)  # their loss is a mean over tokens

    def losses_of_rows(
        self, model: PreTrainedModel, scores: Scores, batch: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """-log p of each text of a training batch, `(batch,)`, whose sum is `scores.loss`.

        Raises:
            UserError: models of this family only tell the sum.
        """
        if scores.logits is None:
            raise UserError(f"{self.name} models only tell the loss of a whole batch; train without weights of rows")
        targets = batch["labels"][:, -scores.logits.shape[1] :]  # an LLM's first token has no logits
        losses = torch.nn.functional.cross_entropy(
            scores.logits.float().transpose(1, 2), targets, ignore_index=-100, reduction="none"
        )
        return losses.sum(dim=1)

    def as_teacher(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """A training batch as this model hears it, where that differs from how another one hears it."""
        return batch

    def check_savable(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Raise `UserError` before training if `save` would fail after it."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                model.config.save_pretrained(folder)
                if model.can_generate():
                    model.generation_config.save_pretrained(folder)
                save_processor(processor, Path(folder))
            except (ValueError, OSError) as error:
                raise UserError(
                    f"a model trained from {model.name_or_path} could not be saved: {str(error).splitlines()[0]}; "
                    "correct the settings of the base"
                ) from error

    def save(self, model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
        """Write a checkpoint that stock transformers loads."""
        model.save_pretrained(folder)
        save_processor(processor, folder)

    def prepare_for_training(
        self, model: PreTrainedModel, *, freeze: str | None = None, from_scratch: bool = False
    ) -> None:
        """Freeze what is not trained, in place, and switch off what draws random numbers of its own.

        Args:
            freeze: "encoder" or "decoder" (everything but the encoder), or None.
            from_scratch: train also what is trained only once, such as the convolutions of a wav2vec2.
        Raises:
            UserError: models of this type cannot be trained.
        """
        if not self.lora_layers:
            raise UserError(f"{self.name} models {ONLY_TRANSCRIBE}")
        if freeze == "encoder":
            self.encoder(model).requires_grad_(False)
        elif freeze == "decoder":
            model.requires_grad_(False)
            self.encoder(model).requires_grad_(True)
        switch_off_own_noise(model)

    def encoder(self, model: PreTrainedModel) -> torch.nn.Module:
        """The part of a model that hears. Raises UserError if transformers does not tell which it is."""
        for encoder in (model.get_encoder(modality="audio"), model.get_encoder()):
            if encoder is not model:
                return encoder
        raise UserError(f"{self.name} models have no encoder of their own that could be frozen, or trained alone")

    def longest_labels(self, model: PreTrainedModel) -> int | None:
        """Number of tokens that the decoder has positions for; None: any number."""
        return None

    def blank(self, model: PreTrainedModel) -> int | None:
        """The token of frames without text, if the model writes one token per frame."""
        return None


def switch_off_own_noise(model: PreTrainedModel) -> None:
    """Switch off a model's own SpecAugment and layer drop, in place; its saved configuration has the same settings.

    The first uses numpy's global generator, so that a resumed run would differ; the trainer masks batches instead. The
    second leaves parameters without a gradient, which stops training on several processes.
    """
    for owner in (model.config, getattr(model.config, "encoder_config", None), *model.modules()):
        for name, off in (("apply_spec_augment", False), ("layerdrop", 0.0)):
            if getattr(owner, name, None):
                setattr(owner, name, off)
    for name, parameter in model.named_parameters():
        if name.endswith("masked_spec_embed"):  # used only by the model's own SpecAugment
            parameter.requires_grad_(False)


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Integers `(rows, longest)`, filled up at the end with `value`."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


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
    """Features padded to the longest clip, with an attention mask unless a wav2vec2's extractor is set to return none:
    models with group normalisation (wav2vec2-base) were trained on zeros without a mask."""
    clips = heard(processor, waveforms)
    extractor = processor.feature_extractor
    options = {"sampling_rate": rate_of(processor), "padding": True, "return_tensors": "pt"}
    if not isinstance(extractor, Wav2Vec2FeatureExtractor):
        options["return_attention_mask"] = True
    return dict(extractor(clips, **options))


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
