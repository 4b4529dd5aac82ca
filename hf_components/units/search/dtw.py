"""Where in a recording something sounds like an example: dynamic time warping with free start and end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHORTEST, LONGEST = 0.5, 2.0  # of a hit, times the length of the example


class Hit(NamedTuple):
    """A stretch of one segment.

    Args:
        segment: index of the segment.
        start, end: first frame, and the frame after the last.
        cost: mean cost of the frames along the path; less is nearer.
    """

    segment: int
    start: int
    end: int
    cost: float


def best_paths(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame of each segment the path through all frames of the example that ends there.

    A path goes on by one frame of the example, of the segment, or of both. Of these, it takes the one with the least
    mean cost so far (Zhang and Glass 2009, "Unsupervised spoken keyword spotting via segmental DTW on Gaussian
    posteriorgrams", normalise by length in the same way). All segments are followed at once, along the diagonals.

    Args:
        costs: `(segments, example, frames)`; infinite after the end of a segment.
    Returns:
        mean cost and first frame of the path, both `(segments, frames)`.
    """
    segments, example, frames = costs.shape
    skewed = np.full((example + frames - 1, segments, example), np.inf)  # [i + j, :, i] is costs[:, i, j]
    for i in range(example):
        skewed[i : i + frames, :, i] = costs[:, i].T
    nowhere = Paths(*(np.full((segments, example), value) for value in (np.inf, 0, 0)))
    last = before = nowhere  # the paths that end on the diagonal before, and on the one before that
    mean = np.full((segments, frames), np.inf)
    start = np.zeros((segments, frames), dtype=np.int64)
    for diagonal, cost in enumerate(skewed):
        # From the frame before of the segment, of the example, of both.
        best = _go_on([last, _shifted(last), _shifted(before)], cost)
        best.total[:, 0] = cost[:, 0]
        best.length[:, 0] = 1
        best.start[:, 0] = diagonal  # it may start at any frame
        before = last
        last = best
        end = diagonal - (example - 1)
        if end >= 0:
            mean[:, end] = best.total[:, -1] / best.length[:, -1]
            start[:, end] = best.start[:, -1]
    return mean, start


class Paths(NamedTuple):
    """The paths that end on a diagonal, each `(segments, example)`: cost in all, steps, and first frame."""

    total: np.ndarray
    length: np.ndarray
    start: np.ndarray


def _go_on(ways: Sequence[Paths], cost: np.ndarray) -> Paths:
    """One step further, along the way with the least mean cost."""
    choice = np.stack([(way.total + cost) / (way.length + 1) for way in ways]).argmin(0)[None]
    chosen = (np.take_along_axis(np.stack(values), choice, 0)[0] for values in zip(*ways, strict=True))
    total, length, start = chosen
    return Paths(total + cost, length + 1, start)


def _shifted(paths: Paths) -> Paths:
    """Each path one place later along the example."""
    return Paths(
        *(
            np.concatenate([np.full((len(values), 1), fill), values[:, :-1]], axis=1)
            for values, fill in zip(paths, (np.inf, 0, 0), strict=True)
        )
    )


def hits_of(mean: np.ndarray, start: np.ndarray, example: int, most: int, segments: Sequence[int]) -> list[Hit]:
    """The best stretches of each segment that do not overlap and are neither much shorter nor longer than the example.

    Args:
        mean, start: of `best_paths`.
        example: frames of the example.
        most: hits per segment.
        segments: numbers of the segments.
    """
    ends = np.arange(mean.shape[1]) + 1
    lengths = ends - start
    mean = np.where((lengths >= SHORTEST * example) & (lengths <= LONGEST * example), mean, np.inf)
    hits = []
    for segment, costs, starts in zip(segments, mean, start, strict=True):
        taken: list[Hit] = []
        for frame in np.argsort(costs, kind="stable"):
            if len(taken) == most or not np.isfinite(costs[frame]):
                break
            begin = int(starts[frame])
            end = int(frame) + 1
            if all(end <= hit.start or begin >= hit.end for hit in taken):
                taken.append(Hit(segment, begin, end, float(costs[frame])))
        hits += taken
    return hits
