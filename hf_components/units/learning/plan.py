"""The order in which k-means sees a corpus: it depends only on seed, ids and durations, not on the processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_components.speech import rank, seconds_batches


@dataclass(frozen=True)
class Batch:
    """Clips whose features are computed together.

    Args:
        number: place in the plan, and name of the kept features.
        rows: indices into the corpus.
    """

    number: int
    rows: tuple[int, ...]


def plan_steps(
    ids: Sequence[str], durations: Sequence[float], seed: int, update_seconds: float, batch_seconds: float
) -> list[list[Batch]]:
    """Put all clips in random order by `seed`, and divide them into steps, after which the centroids move.

    Args:
        durations: seconds of each clip.
        update_seconds: least seconds of a step; the last step may be shorter.
        batch_seconds: seconds of a batch with padding. Within a step, a batch has clips of similar duration.
    """
    steps = []
    rows = []
    seconds = 0.0
    number = 0
    order = sorted(range(len(ids)), key=lambda row: rank(seed, ids[row]))
    for place, row in enumerate(order):
        rows.append(row)
        seconds += durations[row]
        if seconds >= update_seconds or place + 1 == len(order):
            batches = seconds_batches([durations[row] for row in rows], batch_seconds)
            steps.append([Batch(number + i, tuple(rows[j] for j in batch)) for i, batch in enumerate(batches)])
            number += len(batches)
            rows = []
            seconds = 0.0
    return steps
