"""Decode clips of several people, each with the voice of that person."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_components.asr.voices import Example, Reading, Voices
from hf_components.scoring import vote
from hf_components.speech import SAMPLING_RATE

# Texts of clips by a model, with weights over its experts, each behind an example, or all of them alone.
Decode = Callable[[PreTrainedModel, list[np.ndarray], torch.Tensor | None, Sequence[Example | None]], list[str]]


def decode_with_voices(
    voices: Voices,
    model: PreTrainedModel,
    clips: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    decode: Decode,
    batches: Callable[[Sequence[float]], list[list[int]]],
    language: str | None,
) -> list[str]:
    """Texts of clips `(samples,)`, each with the voice of a name.

    A clip of a voice with examples is transcribed alone and after each of them, and the texts vote on every word, see
    `agreed`.

    Args:
        model: the model without voices, for those whose experts a router chooses.
        batches: divides clips of so many seconds into batches of their numbers.
        language: of the words that vote.
    """
    asked = [(row, reading) for row, name in enumerate(names) for reading in voices.readings(name)]
    seconds = [
        (len(clips[row]) + (len(reading.example[0]) if reading.example else 0)) / SAMPLING_RATE
        for row, reading in asked
    ]
    written = [""] * len(asked)
    for batch in [list(range(len(asked)))] if len(asked) == len(clips) else batches(seconds):
        rows = [asked[i][0] for i in batch]
        found = _decode_mixed(
            voices,
            model,
            [clips[row] for row in rows],
            [names[row] for row in rows],
            [asked[i][1] for i in batch],
            decode,
        )
        for i, text in zip(batch, found, strict=True):
            written[i] = text
    texts: list[list[tuple[Reading, str]]] = [[] for _ in clips]
    for (row, reading), text in zip(asked, written, strict=True):
        texts[row].append((reading, text))
    return [agreed(one, language) for one in texts]


def agreed(readings: Sequence[tuple[Reading, str]], language: str | None) -> str:
    """The text of a clip.

    The text of the base and those after examples vote on every word. If there is also one of a LoRA, the base, what
    was voted, and the LoRA have a vote each: a single one of them that goes wrong is outvoted.

    Args:
        readings: each with its text; that of the base is the first, if there are others.
        language: of the words that vote.
    """
    if len(readings) == 1:
        return readings[0][1]
    without = [text for reading, text in readings if not reading.with_lora]
    voted = vote(without, language)
    lora = [text for reading, text in readings if reading.with_lora]
    return vote([without[0], voted, *lora], language) if lora else voted


def _decode_mixed(
    voices: Voices,
    model: PreTrainedModel,
    clips: list[np.ndarray],
    names: list[str],
    readings: Sequence[Reading],
    decode: Decode,
) -> list[str]:
    """Texts of clips, each with its voice: in one pass, and in others those behind an example or by a router."""
    weights = voices.weights_of(names, [reading.with_lora for reading in readings])
    as_it_is = weights.isnan().any(1).tolist()
    passes: dict[tuple[bool, bool], list[int]] = defaultdict(list)  # by who decodes, and whether it is alone
    for row, reading in enumerate(readings):
        passes[as_it_is[row], reading.example is None].append(row)
    texts = [""] * len(clips)
    for (routed, _), rows in sorted(passes.items(), reverse=True):
        written = decode(
            model if routed else voices.model,
            [clips[i] for i in rows],
            None if routed else weights[rows],
            [readings[i].example for i in rows],
        )
        for row, text in zip(rows, written, strict=True):
            texts[row] = text
    return texts
