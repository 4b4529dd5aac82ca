"""Texts for recordings that nobody transcribed: what several readings of the model agree on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.asr import Whisper
from hf_components.scoring import disagreement, nearest_to_all
from hf_components.speech import change_speed
from hf_components.voices.placing import is_mixture
from hf_components.voices.sentences import Sentence

SPEEDS = (1.0, 0.92, 1.08)


@dataclass(frozen=True)
class Guessed:
    """A text that the model wrote, and how much its readings agree: 1 if they are equal, 0 or less if not at all."""

    sentence: Sentence
    agreement: float


@torch.inference_mode()
def guess_texts(
    model: PreTrainedModel, processor: WhisperProcessor, sentences: Sequence[Sentence], language: str | None = None
) -> list[Guessed]:
    """Texts of recordings: of a mixture what its experts agree on, else what the model writes at three speeds.

    The text is the reading that is nearest to all others.
    """
    guessed = []
    for one in sentences:
        texts = _readings(model, processor, one)
        agreement = 1 - disagreement([[text] for text in texts], language)
        text = texts[nearest_to_all(texts, language)].strip()
        guessed.append(Guessed(replace(one, text=text), agreement))
    return guessed


def _readings(model: PreTrainedModel, processor: WhisperProcessor, sentence: Sentence) -> list[str]:
    family = Whisper()
    limits = {"max_new_tokens": min(200, model.config.max_target_positions - 4), "num_beams": 1}
    if not is_mixture(model):
        clips = [change_speed(sentence.waveform, speed) for speed in SPEEDS]
        return family.decode(model, processor, family.inputs(processor, clips), **limits)
    experts = model.config.num_experts
    inputs = family.inputs(processor, [sentence.waveform] * (experts + 1))
    weights = torch.cat([torch.tensor([model.config.plain_weights]), torch.eye(experts)])
    with model.override(mixture="weights"):
        return family.decode(model, processor, inputs, expert_weights=weights, **limits)
