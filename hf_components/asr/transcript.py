"""What a recogniser makes of one recording."""

from dataclasses import dataclass
from typing import NamedTuple

from hf_components.asr.words import Word


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
    """The text of a clip, and its words if they were asked for."""

    text: str
    words: list[Word] | None
