"""How much the word of each recogniser weighs at each place, learnt without truth.

By expectation maximisation (Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
Algorithm"): a recogniser is often right if others, who err independently, often write the same. A logistic regression
makes that depend on its own confidence in the word, on how common the word is, and on how far all agree in the rest of
the recording: where one has difficulties, others have them too.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from hf_components.scoring import NOTHING

# Two recognisers that err independently write the same wrong word as often as it is written at all, times this, since
# texts are aligned where they agree. Both leave out the same word once in so many. Where some write nothing, it is so
# much likelier that nothing was said than a word. These numbers, and the few iterations, were chosen on synthetic
# voices and on real English, see docs/log.md.
OFTEN = 10.0
SAME_GAP = 3.0
EMPTY = 2.0
ITERATIONS = 6
RARE = 0.02  # a recogniser is right at least so often, and at most all but so often
# Chances of the same wrong word are taken as at least and at most this.
RAREST = 1e-4
MOST_COMMON = 0.05
WIDEST_SHIFT = (-50.0, 50.0)  # of log odds
SURE = 1e-3  # a confidence is taken as at least this far from 0 and 1


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
