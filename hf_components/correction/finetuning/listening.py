"""Which recognisers hear the recordings at all: a test without truth.

One that hears a recording writes something more like what others write of it than like what they write of another
recording. One that makes its texts up, hears another language or got the recordings in another order does not.
"""

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from hf_components.scoring import normalized

FEWEST = 20  # recordings, below which nobody is left out
SURE = 3.0  # standard errors of the mean by which texts of one recording must be more alike


def listeners(texts: Sequence[Sequence[str]]) -> list[int]:
    """The indices of the recognisers that hear what the first one hears, or what such a one hears; the first itself.

    Args:
        texts: texts of each recogniser, in the same order of recordings.
    """
    if len(texts[0]) < FEWEST:
        return list(range(len(texts)))
    written = [[normalized(text) for text in own] for own in texts]
    found = [0]
    for one in found:  # grows
        found += [i for i in range(len(texts)) if i not in found and likeness(written[one], written[i]) > SURE]
    return sorted(found)


def likeness(one: Sequence[str], other: Sequence[str]) -> float:
    """By how many standard errors texts of the same recording are more alike than texts of different recordings.

    Each text is compared with that of the same recording, and with the one of another recording that is nearest in
    length, since two that hear nothing may still know how long a recording is.
    """
    order = sorted(range(len(other)), key=lambda i: len(other[i]))
    neighbour = dict(zip(order, [*order[1:], order[-2]], strict=True))
    gains = np.array([_alike(text, other[i]) - _alike(text, other[neighbour[i]]) for i, text in enumerate(one)])
    spread = gains.std(ddof=1)
    return float(gains.mean() / spread * np.sqrt(len(gains))) if spread else 0.0


def _alike(one: str, other: str) -> float:
    return Levenshtein.normalized_similarity(one, other) if one and other else 0.0
