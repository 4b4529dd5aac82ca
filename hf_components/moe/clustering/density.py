"""HDBSCAN with soft memberships, and at most a given number of experts."""

import logging

import numpy as np
from hdbscan import HDBSCAN, all_points_membership_vectors
from sklearn.neighbors import NearestNeighbors

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.soft_labels import unit
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

SMALLEST_CLUSTER, SMALLEST_SHARE = 5, 0.02  # default of min_cluster_size; an expert with less data hardly learns
MOST_SAMPLES = 50  # default of min_samples: time and memory grow with it
MUCH_NOISE = 0.5  # share of the utterances
NEIGHBORS = 10  # fitted utterances whose weights an unseen one takes


def density_clusters(points: np.ndarray, args: ClusteringArguments) -> tuple[np.ndarray, np.ndarray, dict]:
    """Cluster (utterances, dimension) by HDBSCAN (Campello et al. 2013; McInnes et al. 2017).

    With fewer than `args.min_clusters` clusters it retries with half the `min_cluster_size` (down to 5), at most
    `args.max_retries` times, and keeps the attempt with most clusters, the first of equals. If there are more than
    `args.num_experts`, `merge_clusters` merges them; a union has the greatest membership of its parts.

    Noise belongs to no cluster, but it has memberships too (`all_points_membership_vectors`); its label is the
    cluster with the greatest.

    Returns:
        labels (utterances,), where the largest cluster is 0; memberships (utterances, clusters), whose rows sum to
        one; the parameters used, after retries.
    Raises:
        UserError: there are no clusters, fewer than `args.min_experts`, or fewer than `args.num_experts` with
            `args.no_reduce_experts`.
    """
    points = in_metric(points, args.metric)
    # Copies count once: several have infinite density, and HDBSCAN divides by it.
    distinct, copy_of = np.unique(points, axis=0, return_inverse=True)
    fitted, attempts = _fit(distinct, args)
    found = int(fitted.labels_.max()) + 1
    _require_number(found, attempts, args)

    memberships = _memberships(fitted, found)[copy_of]
    noise = fitted.labels_[copy_of] < 0
    labels = np.where(noise, memberships.argmax(axis=1), fitted.labels_[copy_of])
    merged = merge_clusters(points, labels, args.num_experts)
    sizes = np.bincount(merged[labels])
    by_size = np.argsort(-sizes, kind="stable")
    merged = np.argsort(by_size)[merged]
    # A membership is inverse to the distance to the cluster's exemplars, so a union has the greatest of its parts; the
    # sum would favour clusters of many parts.
    memberships = np.stack([memberships[:, merged == cluster].max(axis=1) for cluster in range(len(sizes))], axis=1)
    memberships /= memberships.sum(axis=1, keepdims=True)

    if noise.mean() > MUCH_NOISE:
        logger.warning(
            "HDBSCAN takes %d of %d utterances for noise, which has weak soft labels; lower --min_samples or use "
            "--algorithm kmeans",
            noise.sum(),
            len(noise),
        )
    return (
        merged[labels],
        memberships,
        {
            "metric": args.metric,
            "hdbscan_algorithm": args.hdbscan_algorithm,
            "allow_single_cluster": args.allow_single_cluster,
            "min_cluster_size": fitted.min_cluster_size,
            "min_samples": fitted.min_samples,
            "attempts": attempts,
            "clusters_found": found,
            "noise": int(noise.sum()),
        },
    )


def in_metric(points: np.ndarray, metric: str) -> np.ndarray:
    """The points, for cosine scaled to length one: then |u - v|^2 = 2 - 2 cos(u, v), and Euclidean distance serves."""
    return unit(points) if metric == "cosine" else points


def weights_of_unseen(unseen: np.ndarray, fitted: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """Weights of utterances that were not clustered: the mean weights of the nearest clustered ones.

    `hdbscan.membership_vector` has another formula than the one for fitted points: it is sharper, and gives noise
    beside a cluster to the other clusters.

    Args:
        unseen: points (unseen utterances, dimension).
        fitted: points (utterances, dimension).
        weights: weights (utterances, experts) of `fitted`.
    Returns:
        (unseen utterances, experts).
    """
    if not len(unseen):
        return np.empty((0, weights.shape[1]))
    search = NearestNeighbors(
        n_neighbors=min(NEIGHBORS, len(fitted)), metric="euclidean" if metric == "cosine" else metric
    )
    nearest = search.fit(in_metric(fitted, metric)).kneighbors(in_metric(unseen, metric), return_distance=False)
    return weights[nearest].mean(axis=1)


def merge_clusters(points: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Merge clusters until there are at most `most`, always the two whose union adds least variance within clusters.

    This is Ward's rule (Ward 1963): size_a size_b / (size_a + size_b) |centroid_a - centroid_b|^2. Small clusters are
    merged first, with a near one.

    Args:
        points: (utterances, dimension).
        labels: (utterances,), clusters from 0.
    Returns:
        (clusters,) new number of each cluster, from 0.
    """
    new = np.arange(labels.max() + 1)
    sizes = np.bincount(labels)
    centroids = np.stack([points[labels == cluster].mean(axis=0) for cluster in new])
    while len(sizes) > most:
        distances = ((centroids[:, None] - centroids) ** 2).sum(axis=-1)
        costs = sizes[:, None] * sizes / (sizes[:, None] + sizes) * distances
        costs[np.tril_indices(len(sizes))] = np.inf
        one, other = np.unravel_index(costs.argmin(), costs.shape)  # one < other
        centroids[one] = np.average(centroids[[one, other]], axis=0, weights=sizes[[one, other]])
        sizes[one] += sizes[other]
        centroids = np.delete(centroids, other, axis=0)
        sizes = np.delete(sizes, other)
        new[new == other] = one
        new[new > other] -= 1
    return new


def _memberships(fitted: HDBSCAN, clusters: int) -> np.ndarray:
    """(utterances, clusters), rows sum to one."""
    if clusters == 1:  # `all_points_membership_vectors` cannot do this
        return np.ones((len(fitted.labels_), 1))
    fitted.generate_prediction_data()
    memberships = all_points_membership_vectors(fitted)
    return memberships / memberships.sum(axis=1, keepdims=True)


def _fit(points: np.ndarray, args: ClusteringArguments) -> tuple[HDBSCAN, list[dict]]:
    """The attempt with most clusters, and the figures of each attempt."""
    size = args.min_cluster_size or max(SMALLEST_CLUSTER, round(SMALLEST_SHARE * len(points)))
    smallest = min(size, SMALLEST_CLUSTER)
    best = None
    attempts = []
    for left in reversed(range(args.max_retries + 1)):
        fitted, figures = _attempt(points, size, args)
        if best is None or figures["clusters"] > max(attempt["clusters"] for attempt in attempts):
            best = fitted
        attempts.append(figures)
        if figures["clusters"] >= (args.min_clusters or args.num_experts):
            break
        if size == smallest:
            if left:
                text = "HDBSCAN stops at min_cluster_size %d, although %d retries are left: %s; a smaller "
                text += "--min_cluster_size goes below it"
                why = "an expert with less speech hardly learns" if size == SMALLEST_CLUSTER else "the one given"
                logger.warning(text, size, left, why)
            break
        size = max(smallest, size // 2)
    return best, attempts


def _attempt(points: np.ndarray, size: int, args: ClusteringArguments) -> tuple[HDBSCAN, dict]:
    """Clusters of at least `size` utterances, and the figures of the attempt."""
    samples = min(args.min_samples or min(size, MOST_SAMPLES), len(points) - 1)
    fitted = HDBSCAN(
        min_cluster_size=size,
        min_samples=samples,
        allow_single_cluster=args.allow_single_cluster,
        metric="euclidean" if args.metric == "cosine" else args.metric,
        algorithm=args.hdbscan_algorithm,
        core_dist_n_jobs=1,
    ).fit(points)
    found = int(fitted.labels_.max()) + 1
    noise = int((fitted.labels_ < 0).sum())
    text = "HDBSCAN with min_cluster_size %d, min_samples %d: %d clusters, %d of %d utterances are noise"
    logger.info(text, size, samples, found, noise, len(points))
    return fitted, {"min_cluster_size": size, "min_samples": samples, "clusters": found, "noise": noise}


def _require_number(found: int, attempts: list[dict], args: ClusteringArguments) -> None:
    """Refuse too few clusters, and warn of any other number that is not the requested one."""
    tried = f"min_cluster_size {', '.join(str(attempt['min_cluster_size']) for attempt in attempts)}"
    clusters = f"{found} cluster{'s' if found > 1 else ''}"
    remedy = "lower --min_cluster_size or --min_samples, or use --algorithm kmeans, which finds the number asked for"
    if found == 0:
        raise UserError(
            f"HDBSCAN found no cluster with {tried}: all utterances of the split train are noise; {remedy}; for one "
            "expert use --allow_single_cluster with --min_experts 1"
        )
    if found < args.num_experts and args.no_reduce_experts:
        raise UserError(
            f"HDBSCAN found {clusters} with {tried}, not the {args.num_experts} of --num_experts, and "
            f"--no_reduce_experts forbids fewer experts; {remedy}"
        )
    if found < args.min_experts:
        raise UserError(
            f"HDBSCAN found {clusters} with {tried}, fewer than the {args.min_experts} of --min_experts; {remedy}"
        )
    if found < args.num_experts:
        logger.warning(
            "HDBSCAN found %s with %s: the number of experts is reduced from %d to %d; for more, %s",
            clusters,
            tried,
            args.num_experts,
            found,
            remedy,
        )
    if found == 1:
        logger.warning("a mixture of one expert is a plain LoRA, and its router has nothing to choose")
    if found > args.num_experts:
        logger.warning(
            "HDBSCAN found %d clusters, more than the %d of --num_experts: similar ones are merged by Ward's rule; "
            "raise --num_experts to keep them apart",
            found,
            args.num_experts,
        )
