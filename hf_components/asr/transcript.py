"""What a recogniser makes of one recording."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hf_components.asr.words import Word, moved
from hf_components.speech import SAMPLING_RATE


@dataclass
class Transcript:
    """The result for one recording. If it could not be read, `text` is "" and `problem` gives the reason.

    `words` are those of the text with the recogniser's confidence in each, if they were asked for.
    """

    id: str
    text: str
    seconds: float
    problem: str | None = None
    words: list[Word] | None = None


class Heard(NamedTuple):
    """The text of a recording or a clip; `words` have the recogniser's confidences, if they were asked for."""

    text: str
    words: list[Word] | None = None


def joined(parts: Sequence[Heard], samples: Sequence[int]) -> Heard:
    """What was heard in the pieces of a clip, each of so many samples."""
    text = " ".join(part.text for part in parts if part.text)
    if any(part.words is None for part in parts):
        return Heard(text)
    begins = itertools.accumulate(samples, initial=0)
    words = [moved(part.words, begin / SAMPLING_RATE) for part, begin in zip(parts, begins, strict=False)]
    return Heard(text, list(itertools.chain.from_iterable(words)))
