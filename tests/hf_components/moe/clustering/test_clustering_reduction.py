"""Standardising and reducing: learnt on "train", applied to all."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score
from synthetic_embeddings import make_embeddings

from hf_components.moe.clustering.reduction import standardise_and_reduce, to_plane
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def test_dimensions_get_one_scale_and_constant_ones_stay_constant():
    vectors = make_embeddings().vectors
    points = standardise_and_reduce(vectors, np.full(len(vectors), True), "none", 50, seed=0)
    np.testing.assert_allclose(points[:, 4], 0, atol=1e-6)
    np.testing.assert_allclose(np.delete(points, 4, axis=1).std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("method", ["none", "pca"])
def test_other_splits_change_nothing(method):
    embeddings = make_embeddings()
    train = embeddings.splits == "train"
    one = standardise_and_reduce(embeddings.vectors, train, method, 5, seed=0)
    embeddings.vectors[~train] *= -3
    other = standardise_and_reduce(embeddings.vectors, train, method, 5, seed=0)
    np.testing.assert_array_equal(one[train], other[train])
    assert not np.allclose(one[~train], other[~train])


@pytest.mark.slow  # numba compiles for half a minute
def test_umap_keeps_the_blobs_apart_also_those_of_other_splits_and_repeats_itself():
    embeddings = make_embeddings(spread=1.5)
    train = embeddings.splits == "train"
    points = standardise_and_reduce(embeddings.vectors, train, "umap", 3, seed=0)
    assert points.shape == (240, 3) and np.isfinite(points).all()
    np.testing.assert_allclose(points[train].mean(axis=0), 0, atol=1e-3)
    assert silhouette_score(points[train], embeddings.groups[train]) > 0.7
    assert silhouette_score(points[~train], embeddings.groups[~train]) > 0.7
    np.testing.assert_array_equal(points, standardise_and_reduce(embeddings.vectors, train, "umap", 3, seed=0))
    few = standardise_and_reduce(embeddings.vectors[:6], np.full(6, True), "umap", 50, seed=0)
    assert few.shape == (6, 4) and np.isfinite(few).all()
    assert to_plane(points, "umap", seed=0).shape == (240, 2)


def test_equal_embeddings_are_told():
    with pytest.raises(UserError, match="the 7 embeddings of the split train are all equal"):
        standardise_and_reduce(np.ones((9, 4), np.float32), np.arange(9) < 7, "pca", 2, seed=0)
