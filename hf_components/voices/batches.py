"""Recorded sentences as batches for Whisper, changed at random in training."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.asr import Whisper
from hf_components.runtime import UserError
from hf_components.speech import change_speed, count_mel_frames, log_mel
from hf_components.training import Masks, draws_of, spec_augment
from hf_components.voices.sentences import Sentence
from hf_components.whisper.losses import labels_to_decoder_input
from hf_components.whisper.mel_frames import fit_audio_context

SPEEDS = (0.9, 1.0, 1.1)
MASKS = Masks(time_masks=2, time_mask_length=40, mel_masks=2, mel_mask_width=10)
LONGEST = 30.0  # seconds, at the slowest speed
SHORT_CONTEXT = 300  # mel frames; what a stock Whisper learns in it also holds for 30 s, which are ten times slower


class Batches:
    """Features and labels of sentences, in the audio context of a model.

    Every random choice depends on seed, step and id alone.

    Args:
        model: Whisper whose audio context is used.
        sentences: sentences with texts, each at most 27 s long.
    Raises:
        UserError: a sentence is too long.
    """

    def __init__(self, model: PreTrainedModel, processor: WhisperProcessor, sentences: Sequence[Sentence], seed: int):
        longest = LONGEST * min(SPEEDS)
        if too_long := [one for one in sentences if one.seconds > longest]:
            raise UserError(
                f"{too_long[0].id} has {too_long[0].seconds:.0f} s, and a sentence may have {longest:.0f}; cut it"
            )
        self.model = model
        self.least_context = (
            model.min_audio_context
            if model.audio_context == "dynamic"
            else min(SHORT_CONTEXT, model.min_audio_context)
        )
        self.extractor = processor.feature_extractor
        self.sentences = list(sentences)
        self.labels = [Whisper().tokenize(processor, one.text) for one in sentences]
        self.tokens = np.array([len(tokens) for tokens in self.labels])
        if too_long := [i for i, tokens in enumerate(self.labels) if len(tokens) > model.config.max_target_positions]:
            raise UserError(f"the text of {sentences[too_long[0]].id} is too long for this model; cut the sentence")
        self.seed = seed
        self._mels: dict[tuple[int, float], tuple[torch.Tensor, int]] = {}

    def heard_seconds(self, row: int) -> float:
        """Seconds of audio that the encoder computes for a sentence."""
        return max(self.sentences[row].seconds, self.least_context / 100)

    def clean(self, rows: Sequence[int]) -> torch.Tensor:
        """Features of sentences as they were recorded, `(rows, mel bins, frames)`."""
        return self.fit([self._mel(row, 1.0)[0] for row in rows])

    def changed(self, rows: Sequence[int], step: int) -> torch.Tensor:
        """Features of sentences in one step of training, by speed and SpecAugment, `(rows, mel bins, frames)`."""
        features = []
        for row in rows:
            random = draws_of(self.seed, step, self.sentences[row].id)
            mel, frames = self._mel(row, float(random.choice(SPEEDS)))
            mel = mel.clone()
            spec_augment(mel, frames, random, MASKS)
            features.append(mel)
        return self.fit(features)

    def labels_of(self, rows: Sequence[int]) -> torch.Tensor:
        """Labels `(rows, tokens)`, filled with -100."""
        longest = max(len(self.labels[row]) for row in rows)
        return torch.tensor([self.labels[row] + [-100] * (longest - len(self.labels[row])) for row in rows])

    def _mel(self, row: int, speed: float) -> tuple[torch.Tensor, int]:
        if (row, speed) not in self._mels:
            waveform = change_speed(self.sentences[row].waveform, speed)
            self._mels[row, speed] = (
                log_mel(self.extractor, [waveform])[0],
                count_mel_frames(self.extractor, len(waveform)),
            )
        return self._mels[row, speed]

    def fit(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features `(mel bins, frames)` of clips as one batch, in the least audio context."""
        frames = max(self.least_context, *(mel.shape[-1] for mel in features))
        frames += frames % 2
        fitted = torch.cat([fit_audio_context(mel[None], frames) for mel in features])
        return fitted.to(self.model.device, self.model.dtype)


def losses_of_rows(
    model: PreTrainedModel, features: torch.Tensor, labels: torch.Tensor, **routing: torch.Tensor
) -> torch.Tensor:
    """Summed token loss of each row, `(rows,)` in float32.

    Args:
        routing: `expert_weights` and `trunk_states` of a mixture, see its `forward`.
    """
    labels = labels.to(model.device)
    if routing:
        routing["fit_audio_context"] = False
    logits = model(
        features, decoder_input_ids=labels_to_decoder_input(labels, model.config), use_cache=False, **routing
    ).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    return losses.sum(-1)
