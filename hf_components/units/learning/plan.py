"""In which order k-means hears a corpus: a pure function of seed, ids and durations, whoever does the work."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_components.speech import rank, seconds_batches


@dataclass(frozen=True)
class Batch:
    """Clips whose features are computed together.

    Args:
        number: place in the plan; names what is kept of the batch.
        rows: indices into the corpus.
    """

    number: int
    rows: tuple[int, ...]


def plan_steps(
    ids: Sequence[str], durations: Sequence[float], seed: int, update_seconds: float, batch_seconds: float
) -> list[list[Batch]]:
    """All clips once, in an order drawn by `seed`, in steps after which the centroids move.

    Args:
        durations: seconds of each clip.
        update_seconds: what a step holds at least, but for the last.
        batch_seconds: of a batch, padded to its longest clip. Within a step clips of like duration go together.
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
