"""Figures of the clusters, and warnings about weak ones."""

import logging
from collections import Counter

import numpy as np
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.moe.clustering.items import known_rows
from hf_components.moe.clustering.soft_labels import normalised_entropy

logger = logging.getLogger(__name__)

SILHOUETTE_SAMPLE = 5000  # utterances; the cost is quadratic
SMALL_CLUSTER = 0.02  # share of the utterances
MUCH_AGREEMENT = 0.1  # NMI above which a warning is given


def summarise_clusters(embeddings: Embeddings, train: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict:
    """Contents of the clusters; figures are of "train" except under `splits`.

    Args:
        train: (utterances,) boolean, the rows of "train".
        labels: (utterances,) expert of each.
        weights: (utterances, experts).
    """
    fitted = labels[train]
    experts = weights.shape[1]
    groups = embeddings.groups[train]
    durations = embeddings.durations[train]
    quartile = np.searchsorted(np.quantile(durations, [0.25, 0.5, 0.75]), durations)
    return {
        "sizes": np.bincount(fitted, minlength=experts).tolist(),
        "speakers_per_cluster": _speakers_per_cluster(embeddings.speakers[train], fitted, experts),
        "mean_entropy": float(normalised_entropy(weights[train]).mean()),
        "agreement_nmi": {
            "group": float(normalized_mutual_info_score(groups, fitted)),
            "speaker": float(normalized_mutual_info_score(embeddings.speakers[train], fitted)),
            "duration_quartile": float(normalized_mutual_info_score(quartile, fitted)),
        },
        "contingency": {
            str(group): np.bincount(fitted[groups == group], minlength=experts).tolist() for group in np.unique(groups)
        },
        "splits": {
            str(split): {
                "utterances": int((embeddings.splits == split).sum()),
                "speakers": len(np.unique(embeddings.speakers[embeddings.splits == split])),
                "per_expert": np.bincount(labels[embeddings.splits == split], minlength=experts).tolist(),
                "mean_entropy": float(normalised_entropy(weights[embeddings.splits == split]).mean()),
            }
            for split in np.unique(embeddings.splits)
        },
    }


def measure_silhouette(points: np.ndarray, labels: np.ndarray, seed: int) -> float | None:
    """Mean silhouette by cosine; None if every point is its own cluster, or if the sample has a single cluster."""
    sample = np.random.default_rng(seed).permutation(len(points))[:SILHOUETTE_SAMPLE]
    points = points[sample]
    labels = labels[sample]
    if not 1 < len(np.unique(labels)) < len(labels):
        return None
    return float(silhouette_score(points, labels, metric="cosine"))


def warn_of_unknown_groups(unknown: np.ndarray, names: np.ndarray) -> None:
    for group, count in Counter(unknown.tolist()).items():
        logger.warning(
            "%d utterances have the group %r, which the split %s lacks: their weights follow their similarity to the "
            "groups %s",
            count,
            group,
            FIT_SPLIT,
            ", ".join(names),
        )


def warn_of_weak_clusters(embeddings: Embeddings, train: np.ndarray, summary: dict) -> None:
    if len(np.unique(embeddings.speakers[train])) == 1:
        logger.warning(
            "the split %s has a single speaker, %r: clusters follow what is said, a router trained on them cannot be "
            "expected to know new speakers, and no held-out evaluation is possible; add speakers",
            FIT_SPLIT,
            str(embeddings.speakers[train][0]),
        )
    smallest = min(summary["sizes"])
    if smallest < SMALL_CLUSTER * train.sum():
        logger.warning(
            "the smallest cluster has %d of %d utterances: its expert will hardly learn; lower --num_experts",
            smallest,
            train.sum(),
        )
    alone = summary["speakers_per_cluster"].count(1)
    if alone and summary["algorithm"] != "group":
        logger.warning(
            "%d of %d clusters are a single speaker each: their experts learn a voice, not a kind of people; lower "
            "--num_experts, or add speakers of that kind",
            alone,
            summary["num_experts"],
        )
    agreement = summary["agreement_nmi"]
    if agreement["duration_quartile"] > max(MUCH_AGREEMENT, agreement["group"], agreement["speaker"]):
        logger.warning(
            "the clusters follow the length of the utterances (NMI %.2f) more than group or speaker; check that the "
            "embeddings are means over real frames only",
            agreement["duration_quartile"],
        )


def _speakers_per_cluster(speakers: np.ndarray, labels: np.ndarray, experts: int) -> list[int]:
    """How many known speakers have most of their utterances in each cluster; a stray utterance does not count."""
    known = known_rows(speakers)
    number = np.unique(speakers[known], return_inverse=True)[1]
    if not len(number):
        return [0] * experts
    counts = np.zeros((number.max() + 1, experts), int)
    np.add.at(counts, (number, labels[known]), 1)
    return np.bincount(counts.argmax(axis=1), minlength=experts).tolist()
