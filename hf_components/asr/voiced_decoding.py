"""Decode clips of several people, each with the voice of that person."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_components.asr.voices import Voices
from hf_components.scoring import vote
from hf_components.speech import SAMPLING_RATE

Example = tuple[np.ndarray, str]  # a sentence of that person: sound and text
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

    A clip of a voice with examples is transcribed alone and after each of them, and the texts vote on every word.

    Args:
        model: the model without voices, for those whose experts a router chooses.
        batches: divides clips of so many seconds into batches of their numbers.
        language: of the words that vote.
    """
    asked = [(row, example) for row, name in enumerate(names) for example in (None, *voices.examples[name])]
    seconds = [
        (len(clips[row]) + (0 if example is None else len(example[0]))) / SAMPLING_RATE for row, example in asked
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
    texts: list[list[str]] = [[] for _ in clips]
    for (row, _), text in zip(asked, written, strict=True):
        texts[row].append(text)
    return [one[0] if len(one) == 1 else vote(one, language) for one in texts]


def _decode_mixed(
    voices: Voices,
    model: PreTrainedModel,
    clips: list[np.ndarray],
    names: list[str],
    examples: Sequence[Example | None],
    decode: Decode,
) -> list[str]:
    """Texts of clips, each with its voice: in one pass, and in others those behind an example or by a router."""
    weights = voices.weights_of(names)
    as_it_is = weights.isnan().any(1).tolist()
    passes: dict[tuple[bool, bool], list[int]] = defaultdict(list)  # by who decodes, and whether it is alone
    for row, example in enumerate(examples):
        passes[as_it_is[row], example is None].append(row)
    texts = [""] * len(clips)
    for (routed, _), rows in sorted(passes.items(), reverse=True):
        written = decode(
            model if routed else voices.model,
            [clips[i] for i in rows],
            None if routed else weights[rows],
            [examples[i] for i in rows],
        )
        for row, text in zip(rows, written, strict=True):
            texts[row] = text
    return texts
