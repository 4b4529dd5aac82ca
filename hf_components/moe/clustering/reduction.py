"""Fewer dimensions, for clustering (learnt on the split "train", applied to all) and for a plot."""

from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from hf_components.moe.clustering.embeddings import FIT_SPLIT
from hf_components.runtime import UserError

UMAP_NEIGHBORS = 30
SHORTEST = 0.01  # seconds; below it durations count as equal
LEAST_SPREAD = 1e-6  # variance of the logarithm of durations; less is rounding


def standardise_and_reduce(
    vectors: np.ndarray, fit: np.ndarray, method: Literal["none", "pca", "umap"], dimensions: int, seed: int
) -> np.ndarray:
    """Standardise every dimension, then reduce to `dimensions`; both are fitted on the rows in `fit`.

    A Whisper encoder has a large common offset and a few very large dimensions: without this step all cosines are
    close to one and the soft labels nearly uniform. UMAP (McInnes et al. 2018, arXiv 1802.03426) has the settings that
    its documentation recommends for clustering. Its result is centred, because angles are measured in it.

    Args:
        vectors: (utterances, dimension).
        fit: (utterances,) boolean, the rows to fit on.
        method: "none" keeps all dimensions.
        dimensions: dimensions to keep, at most as many as the rows in `fit` allow.
    Returns:
        (utterances, reduced dimension), float64.
    Raises:
        UserError: the rows in `fit` are all equal.
    """
    if not np.ptp(vectors[fit], axis=0).any():
        raise UserError(
            f"the {int(fit.sum())} embeddings of the split {FIT_SPLIT} are all equal: there is nothing to cluster; "
            "check the model and layer of extract_embeddings"
        )
    points = StandardScaler().fit(vectors[fit]).transform(vectors)
    if method == "pca":
        components = min(dimensions, int(fit.sum()) - 1, points.shape[1])
        points = PCA(components, random_state=seed).fit(points[fit]).transform(points)
    elif method == "umap":
        points = _umap_of_all(points, fit, dimensions, seed)
    return points.astype(np.float64)


def without_duration(vectors: np.ndarray, durations: np.ndarray, speakers: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Subtract what follows the logarithm of the duration, by least squares over the rows in `fit`.

    The slope is that within speakers: what differs between speakers who speak longer and shorter stays, since it may
    be what makes them different. A mean over frames of a short utterance has more of its beginning and end, and is
    noisier.

    Args:
        vectors: (utterances, dimension).
        durations: (utterances,) seconds.
        speakers: (utterances,) number of each one's speaker, from 0.
    Returns:
        (utterances, dimension); the same vectors if no speaker has utterances of two durations.
    """
    lengths = np.log(np.maximum(durations, SHORTEST))
    sizes = np.maximum(np.bincount(speakers, fit), 1)
    within = np.where(fit, lengths - (np.bincount(speakers, fit * lengths) / sizes)[speakers], 0)
    spread = within @ within
    if spread < LEAST_SPREAD * fit.sum():
        return vectors
    slope = within @ vectors / spread  # (dimension,); means of the speakers cancel, since `within` has none
    return vectors - np.outer(lengths - lengths[fit].mean(), slope)


def to_plane(points: np.ndarray, method: Literal["pca", "umap"], seed: int) -> np.ndarray:
    """(utterances, dimension) -> (utterances, 2), for a plot."""
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(points)
    return _umap(len(points), 2, seed).fit_transform(points)


def _umap_of_all(points: np.ndarray, fit: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    model = _umap(int(fit.sum()), min(dimensions, int(fit.sum()) - 2), seed, min_dist=0.0)
    reduced = np.empty((len(points), model.n_components), np.float32)
    reduced[fit] = model.fit_transform(points[fit])
    if not fit.all():
        reduced[~fit] = model.transform(points[~fit])
    return reduced - reduced[fit].mean(axis=0)


def _umap(utterances: int, dimensions: int, seed: int, **options):
    from umap import UMAP  # takes seconds to import, and most runs do not need it

    # With a seed UMAP works in one thread; without n_jobs=1 it warns of that.
    return UMAP(
        n_components=dimensions,
        n_neighbors=min(UMAP_NEIGHBORS, utterances - 1),
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        **options,
    )
