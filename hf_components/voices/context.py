"""A voice as an example: one of the person's sentences before each recording, and its text before each transcript.

Whisper was trained on 30 s of continuous speech. So it takes what it hears of a voice first, and what was said, into
account for the rest. Nothing is trained.

Examples are judged by errors and not by loss: on real speech the loss often grows behind an example, as the text
starts in another way, while errors become fewer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.asr import PAUSE, Whisper
from hf_components.scoring import utterance_errors
from hf_components.speech import SAMPLING_RATE
from hf_components.voices.placing import is_mixture
from hf_components.voices.sentences import Sentence

LONGEST_EXAMPLE = 10.0  # seconds; the longest recording that fits behind it has 20
LONGEST_TOGETHER = 30.0


def errors_in_context(
    model: PreTrainedModel, processor: WhisperProcessor, sentences: Sequence[Sentence], language: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Word errors of each sentence alone `(sentences,)`, and after each other one `(examples, sentences)`.

    NaN is a sentence after itself, one that says the same, and where both are too long together. A mixture takes the
    weights of its plain model behind an example.
    """
    texts = [one.text for one in sentences]
    alone = utterance_errors(_written(model, processor, sentences, None), texts, language)["errors"].astype(float)
    found = np.full((len(sentences), len(sentences)), np.nan)
    for place, example in enumerate(sentences):
        others = [
            other
            for other, one in enumerate(sentences)
            if other != place
            and one.text != example.text
            and example.seconds <= LONGEST_EXAMPLE
            and example.seconds + one.seconds + len(PAUSE) / SAMPLING_RATE <= LONGEST_TOGETHER
        ]
        if others:
            written = _written(model, processor, [sentences[i] for i in others], example)
            found[place, others] = utterance_errors(written, [texts[i] for i in others], language)["errors"]
    return alone, found


def best_example(alone: np.ndarray, after: np.ndarray, sentences: Sequence[Sentence]) -> int | None:
    """The example after which most errors of the other sentences are gone; of equal ones the shortest.

    Args:
        alone, after: results of `errors_in_context`.
    Returns:
        its index, or None if no sentence can be an example.
    """
    gained = [np.nansum(alone - row) if np.isfinite(row).any() else -np.inf for row in after]
    if not np.isfinite(gained).any():
        return None
    return min(range(len(gained)), key=lambda i: (-gained[i], sentences[i].seconds, i))


def is_surely_better(alone: np.ndarray, after: np.ndarray, certainty: float) -> bool:
    """Whether examples help: fewer errors, by `certainty` standard errors over sentences.

    Each sentence counts with the mean over all examples, so that a lucky example does not decide.
    """
    known = np.isfinite(after).any(0)
    if known.sum() < 2:
        return False
    gained = alone[known] - np.nanmean(after[:, known], axis=0)
    error = np.sqrt(len(gained)) * gained.std(ddof=1)
    return bool(gained.sum() > 0 and gained.sum() >= certainty * error)


@torch.inference_mode()
def _written(
    model: PreTrainedModel, processor: WhisperProcessor, sentences: Sequence[Sentence], example: Sentence | None
) -> list[str]:
    family = Whisper()
    limits = {"max_new_tokens": min(100, model.config.max_target_positions - 4), "num_beams": 1}
    clips = [one.waveform for one in sentences]
    if example is not None:
        clips = [np.concatenate([example.waveform, PAUSE, clip]) for clip in clips]
        limits["said"] = [family.tokenize_text(processor, example.text)] * len(clips)
        if is_mixture(model):
            limits["expert_weights"] = torch.tensor([model.config.plain_weights] * len(clips))
    return family.decode(model, processor, family.inputs(processor, clips), **limits)
