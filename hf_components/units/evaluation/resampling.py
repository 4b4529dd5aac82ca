"""Percentile bootstrap of any figure over recordings (Efron and Tibshirani 1993, chapter 13)."""

from collections.abc import Callable

import numpy as np

AT_ONCE = 50  # resamples whose sums are in memory together
BOUNDS = (2.5, 97.5)  # percentiles


def bootstrap_interval(
    figure: Callable[[np.ndarray], np.ndarray], recordings: int, num_bootstrap: int, seed: int
) -> list[float] | None:
    """95 % interval of a figure that cannot be negative, [low, high].

    A resample holds fewer recordings, and mutual information is larger where less is counted. So the percentiles are
    moved by the difference between the figure and the median of its resamples.

    Args:
        figure: takes how often each recording was drawn `(resamples, recordings)`, returns `(resamples,)`; NaN where a
            resample has nothing to measure.
    Returns:
        None with fewer than two recordings or no resamples: nothing says how much the figure varies.
    """
    if recordings < 2 or not num_bootstrap:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(recordings, np.full(recordings, 1 / recordings), size=num_bootstrap)
    values = np.concatenate([figure(drawn[at : at + AT_ONCE]) for at in range(0, num_bootstrap, AT_ONCE)])
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    bias = np.median(values) - figure(np.ones((1, recordings)))[0]
    return [float(max(0, bound - bias)) for bound in np.percentile(values, BOUNDS)]


def numbered(names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The number of each name, and the names in the order of their numbers."""
    found, numbers = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    return numbers, found.tolist()
