"""Which way of placing a voice is taken: by sentences that it was not fitted to, and only if it is surely better."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_components.checkpoints import WAYS


@dataclass(frozen=True)
class Candidate:
    """A way, and its losses on sentences that were held out of it.

    Args:
        way: one of `WAYS`, the cheapest of which is "no change".
        losses: summed token losses, `(sentences,)`.
        step: steps of training of a LoRA.
        scale: part of its strength.
    """

    way: str
    losses: np.ndarray
    step: int = 0
    scale: float = 1.0


def folds_of(said: Sequence[str], most: int, seed: int) -> list[list[int]]:
    """Indices of the sentences that each fold holds out; with few sentences each fold holds out one.

    Recordings of the same sentence are held out together. There is no fold if all say the same.

    Args:
        said: what each sentence says.
        most: greatest number of folds.
    """
    distinct = sorted(set(said))
    if len(distinct) < 2:
        return []
    order = np.random.default_rng(seed).permutation(len(distinct)).tolist()
    folds = min(most, len(distinct))
    held_out = [{distinct[i] for i in order[fold::folds]} for fold in range(folds)]
    return [[row for row, words in enumerate(said) if words in fold] for fold in held_out]


def choose(candidates: Sequence[Candidate], tokens: np.ndarray, *, min_gain: float, certainty: float) -> Candidate:
    """The candidate with the least held-out loss, or a cheaper one that is as good.

    A candidate replaces a cheaper one only if its loss per token is lower by `min_gain` at least, and by `certainty`
    standard errors of the difference. So the first, "no change", stays if nothing is surely better.

    Args:
        candidates: "no change" first.
        tokens: tokens of each sentence, `(sentences,)`.
        min_gain: nats per token.
        certainty: number of standard errors.
    """
    chosen = candidates[0]
    for way in WAYS[1:]:
        of_way = [one for one in candidates if one.way == way]
        if not of_way:
            continue
        best = min(of_way, key=lambda one: (one.losses.sum(), one.step, one.scale))
        gain, error = gain_of(best, chosen, tokens)
        if gain >= min_gain and gain >= certainty * error:
            chosen = best
    return chosen


def gain_of(candidate: Candidate, other: Candidate, tokens: np.ndarray) -> tuple[float, float]:
    """How much lower the loss per token is than that of another, in nats, and its standard error over sentences."""
    differences = other.losses - candidate.losses
    gain = differences.sum() / tokens.sum()
    count = len(tokens)
    if count < 2:
        return float(gain), float("inf")
    residuals = differences - gain * tokens
    error = np.sqrt((residuals**2).sum() * count / (count - 1)) / tokens.sum()
    return float(gain), float(error)
