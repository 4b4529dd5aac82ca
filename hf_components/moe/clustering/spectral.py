"""Spectral clustering on a sparse graph of nearest neighbours."""

import logging

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lobpcg
from sklearn.cluster import KMeans
from sklearn.neighbors import kneighbors_graph

from hf_components.moe.clustering.soft_labels import unit

logger = logging.getLogger(__name__)

LEAST_NEIGHBORS = 10
NEIGHBORS_PER_OWN = 3  # neighbours for each utterance of the speaker
MOST_EDGES = 50_000_000  # of the graph, about 1 GB; it binds above 160,000 utterances at 100 per speaker
DENSE_UP_TO = 1000  # utterances; for fewer, exact eigenvectors are as fast


def spectral_clusters(
    points: np.ndarray, num_experts: int, seed: int, utterances_per_speaker: float = 1
) -> tuple[np.ndarray, dict]:
    """Spectral clustering (Shi and Malik 2000) of (utterances, dimension) by cosine.

    The algorithm is that of scikit-learn's `SpectralClustering(affinity="nearest_neighbors")`, but the eigenvectors
    come from LOBPCG. Scikit-learn factorises the graph, which takes 450 s for 17,000 utterances (LOBPCG: 10 s), and
    its Lanczos process misses repeated eigenvalues: it splits and mixes clusters that are components of the graph.
    Memory grows with utterances x neighbours, the time to find the exact neighbours with utterances squared.

    The nearest neighbours of an utterance are those of its speaker. With no others the graph is a set of speakers
    that hardly touch, and the clusters are single speakers. With three neighbours for each utterance of a speaker at
    least two thirds of them are of other speakers. On made corpora of 40 speakers in four groups that was as good as
    four, and better than one, at 8, 16 and 100 utterances per speaker (docs/log.md).

    Args:
        utterances_per_speaker: how many points a speaker has; see `utterances_per_speaker` in `items.py`.
    Returns:
        labels (utterances,) from 0; the parameters used.
    """
    graph, neighbors = _neighbor_graph(unit(points), num_experts, utterances_per_speaker)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    vectors = _leading_eigenvectors(diags_array(scale) @ graph @ diags_array(scale), num_experts, seed)
    labels = KMeans(num_experts, n_init=10, random_state=seed).fit_predict(vectors * scale[:, None])
    return labels, {"neighbors": neighbors}


def _neighbor_graph(points: np.ndarray, num_experts: int, utterances_per_speaker: float) -> tuple[csr_array, int]:
    """Symmetric sparse graph of nearest neighbours with at most `num_experts` components, and neighbours per point.

    With more components than clusters the eigenvectors are arbitrary mixtures, and a few duplicates far from the rest
    decide the result. More neighbours connect the components.
    """
    wanted = max(LEAST_NEIGHBORS, round(NEIGHBORS_PER_OWN * utterances_per_speaker))
    most = min(len(points) // (2 * num_experts), MOST_EDGES // len(points))  # with few points, all would be neighbours
    neighbors = min(wanted, max(1, most))
    while True:
        graph = csr_array(kneighbors_graph(points, neighbors, include_self=False))
        components = connected_components(graph, directed=False, return_labels=False)
        if components <= num_experts:
            return (graph + graph.T) / 2, neighbors
        neighbors = min(2 * neighbors, len(points) - 1)
        logger.info("the graph of nearest neighbours has %d components, trying %d neighbours", components, neighbors)


def _leading_eigenvectors(matrix: csr_array, count: int, seed: int) -> np.ndarray:
    """Eigenvectors (n, count) of a symmetric sparse (n, n), the largest eigenvalue first; repeated ones included."""
    if matrix.shape[0] <= DENSE_UP_TO:
        return np.linalg.eigh(matrix.toarray()).eigenvectors[:, : -count - 1 : -1]
    # With a larger block than needed the last vectors converge as fast as the first.
    start = np.random.default_rng(seed).normal(size=(matrix.shape[0], count + 4))
    return lobpcg(matrix, start, largest=True, tol=1e-5, maxiter=1000)[1][:, :count]
