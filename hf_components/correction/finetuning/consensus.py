"""Gold from several recognisers: a weighted vote on every word, and an estimate of how often the vote is wrong.

The vote follows ROVER (Fiscus 1997) on aligned texts. How much a recogniser's word weighs is learnt without truth, by
expectation maximisation (Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm"): a recogniser is often right if others, who err independently, often write the same. A logistic regression
makes that depend on its own confidence in the word, on how common the word is, and on how far all agree in the rest of
the recording: where one has difficulties, others have them too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from hf_components.asr import Word
from hf_components.scoring import NOTHING, Alignment, align_words, disagreement, normalized, utterance_errors

# Two recognisers that err independently write the same wrong word as often as it is written at all, times this, since
# texts are aligned where they agree. Both leave out the same word once in so many. Where some write nothing, it is so
# much likelier that nothing was said than a word. These numbers, and the few iterations, were chosen on synthetic
# voices and on real English, see docs/log.md.
OFTEN, SAME_GAP = 10.0, 3.0
EMPTY = 2.0
ITERATIONS = 6
UNHEARD = 0.5  # share of the places where nobody is right in which an LLM guesses the right word
RARE = 0.02  # a recogniser is right at least so often, and at most all but so often
RAREST, MOST_COMMON = 1e-4, 0.05  # chances of the same wrong word are taken as at least and at most this
WIDEST_SHIFT = (-50.0, 50.0)  # of log odds
SURE = 1e-3  # a confidence is taken as at least this far from 0 and 1
DECIMALS = 4


@dataclass
class Heard:
    """What a recogniser heard in a recording; `words` have its confidences, None if it does not tell them."""

    text: str
    words: list[Word] | None = None


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
    if len(one_of_each) < len(heard[0]):
        found = combine([[texts[i] for i in one_of_each] for texts in heard])
        number = {_written(heard, i): n for n, i in enumerate(one_of_each)}
        among = [number[_written(heard, i)] for i in range(len(heard[0]))]
        own = [[told[n] for n in among] for told in found.own]
        return Consensus(found.places, [found.accuracy[n] for n in among], own)
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


class Votes:
    """The votes of recognisers on words at many places, and how much each of them weighs.

    Args:
        columns: the word of each recogniser at each place, `NOTHING` where it has none.
        confidences: `(places, recognisers)`, NaN where a recogniser does not tell or has no word.
        recording: number of the recording of each place.
    """

    def __init__(self, columns: Sequence[Sequence], confidences: np.ndarray, recording: np.ndarray):
        names = [[word.normalized for word in column] for column in columns]
        self.nothing = np.array([[word is NOTHING for word in column] for column in columns])
        words = np.array(names, dtype=object)
        self.same = words[:, :, None] == words[:, None, :]  # (places, recognisers, recognisers)
        self.first = self.same.argmax(axis=2) == np.arange(words.shape[1])  # the first of those that write a word
        counts = Counter(words[~self.nothing])
        elsewhere = np.array([[counts[word] for word in place] for place in names]) - self.same.sum(axis=2)
        chance = OFTEN * (elsewhere + 1) / max(counts.total(), 1)
        self.rare = np.where(self.nothing, np.log(SAME_GAP), -np.log(np.clip(chance, RAREST, MOST_COMMON)))
        told = logit(np.clip(confidences, SURE, 1 - SURE))
        known = ~np.isnan(told)
        centre = np.array([told[known[:, i], i].mean() if known[:, i].any() else 0.0 for i in range(told.shape[1])])
        told = np.where(known, told, centre) * ~self.nothing
        around = np.broadcast_to(self._agreement_around(recording)[:, None], told.shape)
        self.known = np.stack([told, self.rare - self.rare.mean(), around], axis=2)  # (places, recognisers, 3)
        accuracy = self._agreed()
        self.expected = [None] * len(accuracy)
        if len(accuracy) <= 2:  # whom nobody else can compare: they count as equally good
            accuracy = np.full(len(accuracy), np.sqrt(accuracy.prod()))
            self.expected = np.clip(accuracy, RARE, 1 - RARE)
        accuracy = np.clip(accuracy, RARE, 1 - RARE)
        # Probability that each word is right, whatever the others say: as far as any two recognisers agree, and surer
        # where the recogniser itself is.
        self.accurate = expit(logit(accuracy) + told - centre * ~self.nothing)
        self.right = self.accurate

    def learn(self) -> np.ndarray:
        """The probability that each recogniser's word is right, given all votes: `(places, recognisers)`."""
        for _ in range(ITERATIONS):
            self.right = self._given_all_votes()
            self.accurate = np.stack([self._calibrated(i) for i in range(self.right.shape[1])], axis=1)
        return self.right

    def _agreed(self) -> np.ndarray:
        """How often each recogniser is right, if the words of two agree only where both are: `(recognisers,)`.

        Then agreement is the product of both, which is solved in turn for each recogniser (Platanios et al. 2014,
        "Estimating Accuracy from Unlabeled Data").
        """
        said = ~self.nothing
        agreed = (self.same & said[:, :, None]).sum(axis=0)
        agreement = agreed / np.maximum(said.sum(axis=0), 1)[:, None]
        np.fill_diagonal(agreement, 0)
        right = np.full(len(agreement), 0.5)
        others = 1 - np.eye(len(agreement))
        for _ in range(ITERATIONS):
            for i in range(len(right)):
                right[i] = np.clip((agreement[i] * right).sum() / max((others[i] * right**2).sum(), SURE), SURE, 1)
        return right

    def _agreement_around(self, recording: np.ndarray) -> np.ndarray:
        """How far any two agree at the other places of the same recording, as a centred logit: `(places,)`."""
        said = ~self.nothing
        agreed = (self.same & said[:, :, None]).sum(axis=(1, 2)) - said.sum(axis=1)  # each with the others
        possible = said.sum(axis=1) * (said.shape[1] - 1)
        mean = agreed.sum() / max(possible.sum(), 1)
        rest, of = (np.bincount(recording, counts)[recording] - counts for counts in (agreed, possible))
        around = logit(np.clip((rest + mean) / (of + 1), RARE, 1 - RARE))
        return around - around.mean()

    def accuracy(self) -> list[float]:
        """Expected share of each recogniser's words that are right."""
        said = ~self.nothing
        return [
            float(right[words].mean()) if words.any() else 0.0
            for right, words in zip(self.right.T, said.T, strict=True)
        ]

    def _given_all_votes(self) -> np.ndarray:
        """Expectation: each word against all others that were written there, and against a word that nobody wrote."""
        evidence = np.maximum(logit(self.accurate) + self.rare, 0)  # who agrees by chance alone counts for nothing
        score = (self.same * evidence[:, None, :]).sum(axis=2)
        score += np.where(self.nothing, np.log(EMPTY), -self.rare)
        highest = np.maximum(score.max(axis=1, keepdims=True), 0)
        weights = np.exp(score - highest)
        return weights / ((weights * self.first).sum(axis=1, keepdims=True) + np.exp(-highest))

    def _calibrated(self, recogniser: int) -> np.ndarray:
        """Maximisation: how often a recogniser is right, by what is known of a word; its silence, as its words."""
        said = ~self.nothing[:, recogniser]
        right = self.right[said, recogniser]
        if not len(right):
            return np.full(len(said), RARE)
        known = self.known[said, recogniser]
        fitted = LogisticRegression().fit(
            np.concatenate([known, known]),
            np.repeat([1, 0], len(right)),
            sample_weight=np.concatenate([right, 1 - right]),
        )
        found = fitted.decision_function(known)
        expected = self.expected[recogniser]
        if expected is not None:
            found += brentq(lambda shift: expit(found + shift).mean() - expected, *WIDEST_SHIFT)
        accurate = np.full(len(said), right.mean())
        accurate[said] = expit(found)
        return np.clip(accurate, RARE, 1 - RARE)


def expected_errors(places: Sequence[Place], text: str) -> float:
    """Expected errors of another text of a recording, by the votes on it.

    A word that no recogniser wrote is right half as often as it is right that they all are wrong there.
    """
    told = [place for place in places if place.word]
    silent = sum(place.wrong for place in places if not place.word)
    errors = silent
    for change, start, end, own_start, own_end in _changes(told, text):
        if change == "insert":
            errors += own_end - own_start
            continue
        for place, word in zip(
            told[start:end], _padded(_normalized(text)[own_start:own_end], end - start), strict=True
        ):
            nobody = max(0.0, 1 - sum(place.right.values()))
            errors += 1 - place.right.get(word, UNHEARD * nobody)
    return errors


def where_unsure(places: Sequence[Place], text: str, sure: float) -> str:
    """The vote on a recording, with another text's words where the recognisers are not sure.

    Args:
        text: what an LLM makes of it.
        sure: words that are right with at least this probability stay; between two of them no word is added.
    """
    told = [place for place in places if place.word]
    own = text.split()
    doubtful = [False, *(1 - place.wrong < sure for place in told), False]
    words: list[str] = []
    for change, start, end, own_start, own_end in _changes(told, text):
        if change == "insert":
            words += own[own_start:own_end] if doubtful[start] or doubtful[start + 1] else []
        elif change == "equal" or not all(doubtful[start + 1 : end + 1]):
            words += [place.word for place in told[start:end]]
        else:
            words += own[own_start:own_end]
    return " ".join(words)


def estimated_wer(errors: Sequence[float], gold: Sequence[str]) -> float | None:
    """Expected errors per word of the gold; None if it has no words."""
    words = int(utterance_errors(gold, gold)["reference_words"].sum())
    return float(sum(errors) / words) if words else None


def write_gold(
    file: Path,
    ids: Sequence[str],
    names: Sequence[str],
    heard: Sequence[Sequence[Heard]],
    gold: Sequence[str],
    expected: Sequence[float],
    found: Consensus,
) -> None:
    """One line of JSON per recording: what each recogniser heard, the gold, and how far they agree with it.

    Args:
        expected: expected errors of each gold text.
        found: the vote.
    """
    for_words = utterance_errors(gold, gold)["reference_words"]
    with file.open("w", encoding="utf-8") as lines:
        for i, name in enumerate(ids):
            row = {
                "id": name,
                "heard": {who: one.text for who, one in zip(names, heard[i], strict=True)},
                "gold": gold[i],
                "consensus": [
                    [place.word, round(1 - place.wrong, DECIMALS)] for place in found.places[i] if place.word
                ],
                "estimated_wer": round(expected[i] / for_words[i], DECIMALS) if for_words[i] else None,
                "disagreement": round(disagreement([[one.text] for one in heard[i]]), DECIMALS),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _changes(told: Sequence[Place], text: str) -> list:
    """The stretches in which a text differs from the words of the vote, or does not."""
    return list(Levenshtein.opcodes([_only(place.word) for place in told], _normalized(text)))


def _normalized(text: str) -> list[str]:
    return [_only(word) for word in text.split()]


def _only(word: str) -> str:
    return normalized(word) or word


def _padded(words: list[str], length: int) -> list[str]:
    return words + [""] * (length - len(words))


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
