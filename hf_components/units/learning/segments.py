"""Segments that become units."""

import logging

from datasets import Dataset

from hf_components.runtime import UserError
from hf_components.speech import LONG, load_corpus

logger = logging.getLogger(__name__)

SHORTEST = 0.025  # seconds of audio in a frame


def load_segments(corpus_dir: str) -> dict[str, Dataset]:
    """Load the splits, without recordings that are too long for an encoder.

    Raises:
        UserError: a segment is shorter than a frame.
    """
    corpus = load_corpus(corpus_dir, shared_speakers=True)
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning(
            "%d recordings of %s are too long and take no part; segment_audio cuts them", len(corpus[name]), name
        )
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    for name, rows in splits.items():
        durations = rows["duration"][:]
        if durations and min(durations) < SHORTEST:
            shortest = durations.index(min(durations))
            raise UserError(
                f"{rows['id'][shortest]} of {name} is {1000 * durations[shortest]:.0f} ms long, but a unit needs "
                f"{1000 * SHORTEST:.0f} ms; segment the recordings with a minimum length"
            )
    return splits
