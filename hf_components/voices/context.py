"""A voice as examples: one of the person's sentences before each recording, and its text before each transcript.

Whisper was trained on 30 s of continuous speech. So it takes what it hears of a voice first, and what was said, into
account for the rest. Nothing is trained. The text without an example and those after each of them vote on every word.

Examples are judged by errors and not by loss: on real speech the loss often grows behind an example, as the text
starts in another way, while errors become fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.asr import PAUSE, Whisper
from hf_components.checkpoints import language_of
from hf_components.scoring import utterance_errors, vote
from hf_components.speech import SAMPLING_RATE
from hf_components.voices.placing import is_mixture
from hf_components.voices.sentences import Sentence

LONGEST_EXAMPLE = 10.0  # seconds; the longest recording that fits behind it has 20
LONGEST_TOGETHER = 30.0
LONGEST_FILE = 35.0  # seconds of all examples of a voice: as FLAC less than 1 MB
UNHEARD = 0.5  # word error rate above which a model does not understand the examples either


@dataclass(frozen=True)
class Tried:
    """Texts of sentences alone, and after each other one.

    Args:
        texts: what was said.
        alone: text of each sentence alone.
        after: example -> sentence -> text; not of sentences that say the same, or are too long together.
        language: of the texts.
    """

    texts: list[str]
    alone: list[str]
    after: dict[int, dict[int, str]]
    language: str = "en"


def try_examples(
    model: PreTrainedModel, processor: WhisperProcessor, sentences: Sequence[Sentence], most: int
) -> Tried:
    """Transcribe each sentence alone and after others; a mixture then takes the weights of its plain model.

    A voice of which the model hears less than half is not tried: it would not understand the examples either.

    Args:
        most: number of sentences that are tried as examples.
    """
    texts = [one.text for one in sentences]
    language = language_of(model)
    alone = _written(model, processor, sentences, None)
    after: dict[int, dict[int, str]] = {}
    counts = utterance_errors(alone, texts, language)
    heard = counts["errors"].sum() <= UNHEARD * counts["reference_words"].sum()
    for place, example in enumerate(sentences[:most] if heard else ()):
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
            after[place] = dict(zip(others, written, strict=True))
    return Tried(texts, alone, after, language)


def best_examples(tried: Tried, sentences: Sequence[Sentence], most: int) -> list[int]:
    """Indices of the examples after which most errors of the other sentences are gone; of equal ones the shortest.

    Together they are short enough for the file of a voice.
    """
    alone = utterance_errors(tried.alone, tried.texts, tried.language)["errors"]
    gained = {}
    for example, written in tried.after.items():
        rows = list(written)
        errors = utterance_errors(written.values(), [tried.texts[i] for i in rows], tried.language)["errors"]
        gained[example] = float((alone[rows] - errors).mean())
    chosen: list[int] = []
    seconds = 0.0
    for example in sorted(gained, key=lambda i: (-gained[i], sentences[i].seconds, i)):
        if len(chosen) < most and seconds + sentences[example].seconds <= LONGEST_FILE:
            chosen.append(example)
            seconds += sentences[example].seconds
    return sorted(chosen)


@dataclass(frozen=True)
class Judged:
    """Whether examples help, and word errors of the sentences alone and after examples of the others."""

    helps: bool
    errors_before: int
    errors_after: int


def judge(tried: Tried, certainty: float) -> Judged:
    """Whether the votes of examples make no more errors, or fewer by `certainty` standard errors over sentences.

    A sentence is never its own example.
    """
    known = [row for row in range(len(tried.texts)) if any(row in written for written in tried.after.values())]
    if len(known) < 2:
        return Judged(False, 0, 0)
    voted = [
        vote([tried.alone[row], *(written[row] for written in tried.after.values() if row in written)], tried.language)
        for row in known
    ]
    texts = [tried.texts[row] for row in known]
    before = utterance_errors([tried.alone[row] for row in known], texts, tried.language)["errors"]
    after = utterance_errors(voted, texts, tried.language)["errors"]
    gained = before - after
    error = np.sqrt(len(gained)) * gained.std(ddof=1)
    # As many errors are enough where there are any: on real speech examples help more often than not.
    better = before.sum() > 0 and gained.sum() >= certainty * error
    return Judged(bool(better), int(before.sum()), int(after.sum()))


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
