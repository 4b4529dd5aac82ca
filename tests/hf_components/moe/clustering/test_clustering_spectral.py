"""Spectral clustering against scikit-learn's, and on graphs that fall apart."""

import numpy as np
import pytest
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from synthetic_embeddings import make_embeddings

from hf_components.moe.clustering import ClusteringArguments, cluster
from hf_components.moe.clustering.reduction import standardise_and_reduce
from hf_components.moe.clustering.soft_labels import unit
from hf_components.moe.clustering.spectral import DENSE_UP_TO, spectral_clusters

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("utterances", [400, DENSE_UP_TO + 600])  # exact eigenvectors, and LOBPCG's
def test_equals_spectral_clustering_of_scikit_learn(utterances):
    embeddings = make_embeddings(utterances=utterances, spread=2.5)
    points = standardise_and_reduce(embeddings.vectors, np.full(utterances, True), "pca", 20, seed=0)
    reference = SpectralClustering(4, affinity="nearest_neighbors", n_neighbors=11, random_state=0).fit_predict(
        unit(points)
    )
    labels, parameters = spectral_clusters(points, 4, seed=0)
    assert adjusted_rand_score(reference, labels) > 0.98
    assert parameters == {"neighbors": 10}


@pytest.mark.parametrize(("blobs", "experts"), [(4, 4), (3, 5), (9, 4)])
def test_graphs_that_fall_apart(blobs, experts):
    """Far apart, the blobs are components of the graph: fewer than, as many as, and more than experts."""
    embeddings = make_embeddings(utterances=360, spread=0.05, groups=[f"group {i}" for i in range(blobs)])
    args = ClusteringArguments(algorithm="spectral", cluster_by="utterance", num_experts=experts)
    summary = cluster(embeddings, args).summary
    assert min(summary["sizes"]) > 10 and summary["parameters"]["neighbors"] >= 10
    counts = np.array(list(summary["contingency"].values()))  # (groups, experts)
    if experts >= blobs:
        assert ((counts > 0).sum(axis=0) == 1).all()  # no expert mixes blobs
    else:
        assert summary["parameters"]["neighbors"] > 10  # which joined the blobs
        assert counts.max(axis=1).sum() > 0.9 * counts.sum()  # blobs stay together
