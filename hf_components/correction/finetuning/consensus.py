"""The vote of several recognisers on every word of recordings.

It follows ROVER (Fiscus 1997) on aligned texts; how much a word weighs is learnt by `votes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from hf_components.asr import Heard
from hf_components.correction.finetuning.votes import Votes
from hf_components.scoring import Alignment, align_words


class Place(NamedTuple):
    """A place in a recording where recognisers vote.

    Attributes:
        word: the word with most weight as it is written; "" for none.
        right: probability of each word that somebody wrote there, by its normalised form; "" is no word.
    """

    word: str
    right: dict[str, float]

    @property
    def wrong(self) -> float:
        """Probability that the word is wrong."""
        return 1 - max(self.right.values())


@dataclass
class Consensus:
    """The vote on recordings.

    Attributes:
        places: places of each recording, in order.
        accuracy: expected share of right words of each recogniser, in the order of the texts.
        own: for each recording, how sure each recogniser itself is of each word that it wrote, calibrated.
    """

    places: list[list[Place]]
    accuracy: list[float]
    own: list[list[list[float]]]

    @property
    def texts(self) -> list[str]:
        """Text of each recording."""
        return [" ".join(place.word for place in places if place.word) for places in self.places]

    def confidences(self, recording: int) -> list[float]:
        """Probability that each word of a recording's text is right."""
        return [1 - place.wrong for place in self.places[recording] for _ in place.word.split()]

    @property
    def errors(self) -> list[float]:
        """Expected number of wrong, superfluous and missing words of each text."""
        return [sum(place.wrong for place in places) for places in self.places]


def combine(heard: Sequence[Sequence[Heard]]) -> Consensus:
    """The vote on every recording.

    Args:
        heard: what each recogniser heard in each recording, in the same order of recognisers; at least two.
            Recognisers that wrote the same letter by letter in every recording are copies, and have one vote.
    """
    one_of_each = originals(heard)
    found = _vote([[texts[i] for i in one_of_each] for texts in heard])
    number = {_written(heard, i): n for n, i in enumerate(one_of_each)}
    among = [number[_written(heard, i)] for i in range(len(heard[0]))]
    own = [[told[n] for n in among] for told in found.own]
    return Consensus(found.places, [found.accuracy[n] for n in among], own)


def _vote(heard: Sequence[Sequence[Heard]]) -> Consensus:
    """The vote of recognisers that are no copies of each other."""
    recordings = [align_words([one.text for one in texts]) for texts in heard]
    columns = [column for alignment in recordings for column in alignment.columns()]
    if not columns:
        return Consensus([[] for _ in heard], [0.0] * len(heard[0]), [[[] for _ in texts] for texts in heard])
    confidences = [
        row for texts, alignment in zip(heard, recordings, strict=True) for row in _confidences(texts, alignment)
    ]
    recording = np.repeat(np.arange(len(recordings)), [len(alignment.places) for alignment in recordings])
    votes = Votes(columns, np.array(confidences), recording)
    right = votes.learn()
    rows = iter(
        Place(column[row.argmax()].written, {word.normalized: float(p) for word, p in zip(column, row, strict=True)})
        for column, row in zip(columns, right, strict=True)
    )
    places = [list(islice(rows, len(alignment.places))) for alignment in recordings]
    accurate = iter(votes.accurate)
    own = [_own(alignment, list(islice(accurate, len(alignment.places)))) for alignment in recordings]
    return Consensus(places, votes.accuracy(), own)


def originals(heard: Sequence[Sequence[Heard]]) -> list[int]:
    """The indices of the recognisers without those that are copies of an earlier one."""
    first: dict[tuple[str, ...], int] = {}
    for i in range(len(heard[0])):
        first.setdefault(_written(heard, i), i)
    return list(first.values())


def _written(heard: Sequence[Sequence[Heard]], recogniser: int) -> tuple[str, ...]:
    return tuple(texts[recogniser].text for texts in heard)


def _own(alignment: Alignment, accurate: Sequence[np.ndarray]) -> list[list[float]]:
    """The probability of each word that each recogniser wrote, from that of its word at each place."""
    told = [[0.0] * len(words) for words in alignment.words]
    for place, right in zip(alignment.places, accurate, strict=True):
        for who, i in enumerate(place):
            if i is not None:
                told[who][i] = float(right[who])
    return [
        [right for word, right in zip(words, rights, strict=True) for _ in word.written.split()]
        for words, rights in zip(alignment.words, told, strict=True)
    ]


def _confidences(texts: Sequence[Heard], alignment: Alignment) -> list[list[float]]:
    """The confidence of each recogniser at each place, NaN where there is none."""
    told = []
    for one, words in zip(texts, alignment.words, strict=True):
        # What is not scored, such as a dash, is part of the word before it.
        begins = np.cumsum([0, *(len(word.written.split()) for word in words)])[:-1]
        known = one.words is not None and len(one.words) == len(one.text.split())
        told.append([one.words[i].confidence if known else np.nan for i in begins])
    return [
        [np.nan if i is None else own[i] for own, i in zip(told, place, strict=True)] for place in alignment.places
    ]
