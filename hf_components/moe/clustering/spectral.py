"""Spectral clustering on a sparse graph of nearest neighbours."""

import logging

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lobpcg
from sklearn.cluster import KMeans
from sklearn.neighbors import kneighbors_graph

from hf_components.moe.clustering.soft_labels import unit
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

NEIGHBORS = 10
DENSE_UP_TO = 1000  # utterances: below, the exact eigenvectors take no more time


def spectral_clusters(points: np.ndarray, num_experts: int, seed: int) -> tuple[np.ndarray, dict]:
    """Spectral clustering (Shi and Malik 2000) of (utterances, dimension) by cosine.

    The algorithm of scikit-learn's `SpectralClustering(affinity="nearest_neighbors")`, with other eigenvectors: those
    come from factorising the graph, 450 s for 17,000 utterances where LOBPCG takes 10, and from a Lanczos process,
    which overlooks repeated eigenvalues: clear clusters that are components of the graph came out torn and mixed.
    Memory grows with utterances x neighbours; the time for neighbours, exact and in blocks, with utterances squared.

    Returns:
        labels (utterances,), clusters numbered by size, the largest first; and the parameters used.
    Raises:
        UserError: the points have fewer distinct clusters than `num_experts`.
    """
    graph, neighbors = _neighbor_graph(unit(points), num_experts)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    vectors = _leading_eigenvectors(diags_array(scale) @ graph @ diags_array(scale), num_experts, seed)
    labels = KMeans(num_experts, n_init=10, random_state=seed).fit_predict(vectors * scale[:, None])
    sizes = np.bincount(labels, minlength=num_experts)
    if not sizes.all():
        raise UserError(
            f"the embeddings have only {np.count_nonzero(sizes)} distinct clusters, not {num_experts}; lower "
            "--num_experts"
        )
    by_size = np.argsort(-sizes, kind="stable")
    return np.argsort(by_size)[labels], {"neighbors": neighbors}


def _neighbor_graph(points: np.ndarray, num_experts: int) -> tuple[csr_array, int]:
    """Symmetric graph of nearest neighbours (sparse), with at most `num_experts` components, and how many neighbours.

    With more components than clusters the eigenvectors are arbitrary mixtures, so that a few duplicates far from the
    rest decide the result; more neighbours join them.
    """
    neighbors = min(
        NEIGHBORS, max(1, len(points) // (2 * num_experts))
    )  # of few points all would be neighbours of all
    while True:
        graph = csr_array(kneighbors_graph(points, neighbors, include_self=False))
        components = connected_components(graph, directed=False, return_labels=False)
        if components <= num_experts:
            return (graph + graph.T) / 2, neighbors
        neighbors = min(2 * neighbors, len(points) - 1)
        logger.info("the graph of nearest neighbours has %d components, trying %d neighbours", components, neighbors)


def _leading_eigenvectors(matrix: csr_array, count: int, seed: int) -> np.ndarray:
    """Of a symmetric sparse (n, n) -> (n, count), the largest eigenvalue first; repeated eigenvalues are no
    obstacle."""
    if matrix.shape[0] <= DENSE_UP_TO:
        return np.linalg.eigh(matrix.toarray()).eigenvectors[:, : -count - 1 : -1]
    # A block larger than asked for makes the last vectors converge as fast as the first.
    start = np.random.default_rng(seed).normal(size=(matrix.shape[0], count + 4))
    return lobpcg(matrix, start, largest=True, tol=1e-5, maxiter=1000)[1][:, :count]
