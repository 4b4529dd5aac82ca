"""Words of a transcript with the confidence of the recogniser that wrote them, and their times where it has them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_components.runtime import UserError

STARTS_OF_WORDS = ("\u0120", "\u2581")  # of the tokens of byte-level BPE, and of SentencePiece


WORDS_HEARD = "words"  # field of a transcript's line
DECIMALS = 4


class Word(NamedTuple):
    """A word of a transcript.

    Attributes:
        text: as it is written, without spaces.
        confidence: in [0, 1]: the geometric mean of the probabilities of its tokens. It is not calibrated.
        start, end: seconds from the beginning of the recording; None if the recogniser does not know.
    """

    text: str
    confidence: float
    start: float | None = None
    end: float | None = None


def in_words(text: str, tokens: Sequence[str], log_probs: Sequence[float], space: str | None = None) -> list[Word]:
    """The words of a text with their confidences.

    Args:
        tokens: tokens of the text, as the vocabulary has them.
        log_probs: natural logarithm of the probability of each.
        space: token between words, if the vocabulary has one.
    """
    written = text.split()
    parts = parts_of(tokens, space)
    if len(parts) != len(written):  # the text is written otherwise than its tokens: all words are equally sure
        parts = [range(len(tokens))] * len(written)
    return [
        Word(word, float(np.exp(np.mean([log_probs[i] for i in part]))) if len(part) else 0.0)
        for word, part in zip(written, parts, strict=True)
    ]


def as_lists(words: Sequence[Word]) -> list[list]:
    """Words as JSON has them: text, confidence, start and end."""
    return [[text, *(None if part is None else round(part, DECIMALS) for part in parts)] for text, *parts in words]


def from_lists(words: Sequence[Sequence], problem: str) -> list[Word]:
    """Words of `as_lists`; those of other tools may lack times. Raises UserError with `problem` for other forms."""
    for word in words if isinstance(words, list) else [None]:
        known = isinstance(word, list) and 2 <= len(word) <= 4 and isinstance(word[0], str)
        numbers = known and all(part is None or isinstance(part, (int, float)) for part in word[1:])
        if not numbers or word[1] is None or not 0 <= word[1] <= 1:
            raise UserError(f"{problem}, with a confidence from 0 to 1, got {word!r}")
    return [Word(*word) for word in words]


def parts_of(tokens: Sequence[str], space: str | None = None) -> list[list[int]]:
    """The indices of the tokens of each word."""
    parts: list[list[int]] = [[]]
    for i, token in enumerate(tokens):
        if token == space or token.startswith(STARTS_OF_WORDS):
            parts.append([])
        if token != space and token not in STARTS_OF_WORDS:
            parts[-1].append(i)
    return [part for part in parts if part]


def moved(words: Sequence[Word], seconds: float) -> list[Word]:
    """The words of a piece that begins so many seconds after its recording."""
    return [
        word if word.start is None else word._replace(start=word.start + seconds, end=word.end + seconds)
        for word in words
    ]
