"""Algorithms of scikit-learn that divide points among a given number of clusters.

All see points of length one, as spectral clustering does: then Euclidean distance follows the cosine, by which the
soft labels are made.
"""

import numpy as np
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.mixture import GaussianMixture

from hf_components.moe.clustering.soft_labels import unit
from hf_components.runtime import UserError

STARTS = 10  # random starts, the best of which counts
WARD_UP_TO = 20_000  # points; Ward's distances between them take 1.6 GB then


def kmeans_clusters(points: np.ndarray, num_experts: int, seed: int) -> tuple[np.ndarray, dict]:
    """k-means of (points, dimension): labels (points,), and the parameters used."""
    return KMeans(num_experts, n_init=STARTS, random_state=seed).fit_predict(unit(points)), {"starts": STARTS}


def ward_clusters(points: np.ndarray, num_experts: int) -> tuple[np.ndarray, dict]:
    """Merge the two clusters whose union adds least variance, until `num_experts` are left (Ward 1963).

    Raises:
        UserError: there are too many points for the memory.
    """
    if len(points) > WARD_UP_TO:
        raise UserError(
            f"--algorithm ward takes at most {WARD_UP_TO} points, got {len(points)}: its memory grows with their "
            "square; use --algorithm kmeans, or --cluster_by speaker"
        )
    return AgglomerativeClustering(num_experts, linkage="ward").fit_predict(unit(points)), {}


def gmm_clusters(points: np.ndarray, num_experts: int, seed: int) -> tuple[np.ndarray, dict]:
    """Mixture of Gaussians, each with a width of its own and the same in all directions.

    More parameters than one width are not to be learnt from the few speakers of a corpus.
    """
    mixture = GaussianMixture(num_experts, covariance_type="spherical", n_init=STARTS, random_state=seed)
    return mixture.fit_predict(unit(points)), {"covariance": "spherical", "starts": STARTS}
