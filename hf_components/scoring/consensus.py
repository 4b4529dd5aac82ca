"""One text out of several for the same utterance: the one nearest to all, or a vote on each word or sound.

Neither needs a reference or a probability, so the texts may be those of any recognisers.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.scoring.error_rates import normalizer_of
from hf_components.speech import WORDS


class Word(NamedTuple):
    """A word as it is written, and as it is compared."""

    written: str
    normalized: str


NOTHING = Word("", "")


def nearest_to_all(texts: Sequence[str], language: str | None = None, target: str = WORDS) -> int:
    """The index of the text with the least mean edit distance to the others; the lowest of equals.

    This is minimum Bayes risk decoding (Kumar and Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine
    Translation") with the texts as equally probable candidates.

    Args:
        texts: texts for one utterance, at least one. They are compared as they are scored, after normalising.
        language: language code of the texts; None for English.
        target: words are compared as wholes, IPA by its symbols.
    """
    words = [_scored(text, language, target) for text in texts]
    return int(np.argmin([sum(Levenshtein.distance(own, other) for other in words) for own in words]))


def vote(texts: Sequence[str], language: str | None = None, target: str = WORDS) -> str:
    """A text in which every word, or symbol of IPA, has most votes of the texts.

    It follows ROVER (Fiscus 1997, "A post-processing system to yield reduced word error rates"). All texts are aligned
    with one of them, that of `nearest_to_all`, and vote on each of its words: to keep it, to replace it, or to leave
    it out. They also vote on words between its words. If no choice has more votes than all others, the text that all
    are aligned with decides.

    Words are compared after normalising each alone, so "Cat," and "cat" are the same, but "twenty one" and "21" are
    not. They are returned as they were written: by the aligned text if it has the word, else by the first that has it.

    Args:
        texts: texts for one utterance, at least one.
        language: language code of the texts; None for English.
        target: vote on words, or on the symbols of IPA, of which a space is one.
    """
    aligned = align_words(texts, language, target)
    order = sorted(range(len(texts)), key=lambda i: i != aligned.pivot)  # the aligned text votes first
    chosen = (_majority([column[i] for i in order]) for column in aligned.columns())
    between = " " if target == WORDS else ""
    return between.join(word.written for word in chosen if word is not NOTHING)


class Alignment(NamedTuple):
    """Texts for one utterance, aligned word by word.

    Attributes:
        pivot: index of the text that all are aligned with, that of `nearest_to_all`.
        words: words of each text, or symbols of IPA.
        places: for each place in the utterance, the index of each text's word there; None if it has none.
    """

    pivot: int
    words: list[list[Word]]
    places: list[list[int | None]]

    def columns(self) -> list[list[Word]]:
        """The word of each text at each place; `NOTHING` where it has none."""
        return [
            [NOTHING if i is None else words[i] for words, i in zip(self.words, place, strict=True)]
            for place in self.places
        ]


def align_words(texts: Sequence[str], language: str | None = None, target: str = WORDS) -> Alignment:
    """Align texts with one of them; the arguments are those of `vote`."""
    pivot = nearest_to_all(texts, language, target)
    words = [_units(text, language, target) for text in texts]
    places: dict[tuple[int, str, int], list[int | None]] = {
        (i, "word", 0): [None] * len(texts) for i in range(len(words[pivot]))
    }
    for text, own in enumerate(words):
        for place, i in _places_of(own, words[pivot]):
            places.setdefault(place, [None] * len(texts))[text] = i
    return Alignment(pivot, words, [places[place] for place in sorted(places)])  # "before" sorts before "word"


def disagreement(systems: Sequence[Sequence[str]], language: str | None = None) -> float:
    """How much the texts of several systems differ: 0 if they are equal, at most 2.

    It is the mean over utterances and pairs of systems of the word edit distance, divided by the mean number of words
    of the two texts. Texts are compared as they are scored, after normalising.

    Args:
        systems: texts of each system in the same order; with a single system the result is 0.
        language: language code of the texts; None for English.
    """
    words = [[_scored(text, language, WORDS) for text in texts] for texts in systems]
    pairs = [pair for texts in zip(*words, strict=True) for pair in combinations(texts, 2)]
    if not pairs:
        return 0.0
    return float(np.mean([Levenshtein.distance(a, b) / max((len(a) + len(b)) / 2, 1) for a, b in pairs]))


def normalized(word: str, language: str | None = None) -> str:
    """A word as it is compared; "" for what is not scored."""
    return normalize(word, normalizer_of(language))


def _scored(text: str, language: str | None, target: str) -> list[str]:
    return list(text) if target != WORDS else normalize(text, normalizer_of(language)).split()


def _units(text: str, language: str | None, target: str) -> list[Word]:
    """The words of a text, or the symbols of IPA."""
    return _words(text, language) if target == WORDS else [Word(symbol, symbol) for symbol in text]


def _words(text: str, language: str | None) -> list[Word]:
    """The words of a text; what is not scored, such as a dash between spaces, stays with the word before it."""
    words: list[Word] = []
    for written in text.split():
        compared = normalized(written, language)
        if compared or not words:
            words.append(Word(written, compared))
        else:
            words[-1] = words[-1]._replace(written=f"{words[-1].written} {written}")
    return words


def _places_of(words: list[Word], pivot: list[Word]) -> list[tuple[tuple[int, str, int], int]]:
    """Each word's index with its place: a word of the pivot, or the n-th word inserted before it."""
    places = []
    own = [word.normalized for word in words]
    for change, start, _, own_start, own_end in Levenshtein.opcodes([word.normalized for word in pivot], own):
        if change == "insert":
            places += [((start, "before", n), i) for n, i in enumerate(range(own_start, own_end))]
        elif change != "delete":  # equal or replace: as many words here as there
            places += [((start + n, "word", 0), i) for n, i in enumerate(range(own_start, own_end))]
    return places


def _majority(votes: list[Word]) -> Word:
    """The word with more votes than every other, else the first vote."""
    counts = Counter(word.normalized for word in votes).most_common(2)
    is_tie = len(counts) == 2 and counts[0][1] == counts[1][1]
    best = votes[0].normalized if is_tie else counts[0][0]
    return next(word for word in votes if word.normalized == best)
