"""One way to call every algorithm, and clusters numbered by size."""

import numpy as np

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.density import density_clusters
from hf_components.moe.clustering.partition import gmm_clusters, kmeans_clusters, ward_clusters
from hf_components.moe.clustering.spectral import spectral_clusters
from hf_components.runtime import UserError


def find_clusters(
    points: np.ndarray, per_speaker: float, args: ClusteringArguments
) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Cluster (points, dimension) by `args.algorithm`.

    Args:
        per_speaker: how many of the points are of the same speaker.
    Returns:
        labels (points,), where the largest cluster is 0; HDBSCAN's memberships (points, clusters), None for the
        others; the parameters used.
    Raises:
        UserError: there are too few distinct clusters, or too many points for the algorithm.
    """
    if args.algorithm == "hdbscan":
        return density_clusters(points, args)
    if args.algorithm == "kmeans":
        labels, parameters = kmeans_clusters(points, args.num_experts, args.seed)
    elif args.algorithm == "ward":
        labels, parameters = ward_clusters(points, args.num_experts)
    elif args.algorithm == "gmm":
        labels, parameters = gmm_clusters(points, args.num_experts, args.seed)
    else:
        labels, parameters = spectral_clusters(points, args.num_experts, args.seed, per_speaker)
    return _by_size(labels, args.num_experts), None, parameters


def _by_size(labels: np.ndarray, num_experts: int) -> np.ndarray:
    sizes = np.bincount(labels, minlength=num_experts)
    if not sizes.all():
        raise UserError(
            f"the embeddings have only {np.count_nonzero(sizes)} distinct clusters, not {num_experts}; "
            "lower --num_experts"
        )
    return np.argsort(np.argsort(-sizes, kind="stable"))[labels]
