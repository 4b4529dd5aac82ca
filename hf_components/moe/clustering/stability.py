"""Whether the same clusters are found among other speakers: a bootstrap over speakers."""

import logging
from collections.abc import Callable

import numpy as np
from sklearn.metrics import adjusted_rand_score

from hf_components.moe.clustering.logs import only_errors
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

SAMPLES = 10
MOST_POINTS = 4000  # of one sample; several algorithms take time or memory with the square
SAMPLES_OF_MANY = 5  # where samples are cut to that


def measure_stability(
    points: np.ndarray,
    labels: np.ndarray,
    speakers: np.ndarray,
    utterances: np.ndarray,
    num_experts: int,
    seed: int,
    find: Callable[[np.ndarray], tuple],
) -> dict:
    """Mean adjusted Rand index between the clusters of all speakers and those of bootstrap samples of speakers.

    Each sample draws as many speakers as there are, with replacement (Efron 1979), and clusters those that were drawn,
    about 63 % of all. A speaker drawn twice counts once: copies would be each other's nearest neighbours. The index is
    taken over the utterances in the sample (Hubert and Arabie 1985): 1 if they are divided in the same way, 0 for
    agreement by chance. A sample in which no clusters are found counts 0. The reduction is not fitted again.

    Args:
        points: (points, dimension).
        labels: (points,) their clusters.
        speakers: (points,) number of the speaker of each, from 0.
        utterances: (points,) how many utterances each represents.
        find: function from points to labels and more, see `find_clusters`.
    Returns:
        `adjusted_rand`, None if no sample has more points than experts; `samples`; `speakers`, how many a sample has
        on average; `points`, the same.
    """
    random = np.random.default_rng(seed)
    per_speaker = np.bincount(speakers)
    number = SAMPLES if len(points) <= MOST_POINTS else SAMPLES_OF_MANY
    scores = []
    sizes = []
    for _ in range(number):
        drawn = random.permutation(np.unique(random.integers(len(per_speaker), size=len(per_speaker))))
        before = np.cumsum(per_speaker[drawn]) - per_speaker[drawn]
        drawn = drawn[before < MOST_POINTS]
        sample = np.isin(speakers, drawn)
        if sample.sum() <= num_experts:
            continue
        scores.append(_agreement(points[sample], labels[sample], utterances[sample], find))
        sizes.append((len(drawn), int(sample.sum())))
    if not scores:
        return {"adjusted_rand": None, "samples": 0, "speakers": 0, "points": 0}
    mean_speakers, mean_points = np.mean(sizes, axis=0)
    return {
        "adjusted_rand": float(np.mean(scores)),
        "samples": len(scores),
        "speakers": float(mean_speakers),
        "points": float(mean_points),
    }


def _agreement(points: np.ndarray, labels: np.ndarray, utterances: np.ndarray, find: Callable) -> float:
    try:
        with only_errors():
            again, _, _ = find(points)
    except UserError:
        return 0.0
    return float(adjusted_rand_score(np.repeat(labels, utterances), np.repeat(again, utterances)))
