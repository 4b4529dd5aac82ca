"""Batches of recordings of similar length, so that they need little padding."""

from collections.abc import Sequence

import numpy as np


def duration_batches(durations: Sequence[float], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar duration; the longest first, so that a lack of memory shows in the first batch."""
    order = np.argsort(-np.asarray(durations), kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]


def seconds_batches(seconds: Sequence[float], batch_seconds: float) -> list[list[int]]:
    """Indices in batches of at most `batch_seconds` with padding, but at least one recording; the longest first."""
    order = np.argsort(-np.asarray(seconds), kind="stable").tolist()
    batches = []
    while order:
        size = max(1, int(batch_seconds // seconds[order[0]]))
        batches.append(order[:size])
        order = order[size:]
    return batches
