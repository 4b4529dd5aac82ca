"""HDBSCAN with soft memberships, brought to a wanted number of experts."""

import logging

import numpy as np
from hdbscan import HDBSCAN, all_points_membership_vectors
from sklearn.neighbors import NearestNeighbors

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.soft_labels import unit
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

SMALLEST_CLUSTER, SMALLEST_SHARE = 5, 0.02  # default of min_cluster_size; an expert on less would hardly train
MOST_SAMPLES = 50  # default of min_samples: time and memory grow with it
MUCH_NOISE = 0.5  # of the utterances
NEIGHBORS = 10  # fitted utterances that an unseen one takes its weights from


def density_clusters(points: np.ndarray, args: ClusteringArguments) -> tuple[np.ndarray, np.ndarray, dict]:
    """HDBSCAN (Campello et al. 2013; McInnes et al. 2017) of (utterances, dimension), in at most `args.num_experts`
    clusters.

    With fewer than `args.min_clusters` clusters it tries again with half the `min_cluster_size` (down to 5), at most
    `args.max_retries` times, and keeps the attempt with most clusters, the first of equals. More clusters than
    `args.num_experts` are merged by `merge_clusters`; a union has the greatest membership of its parts.

    Noise belongs to no cluster, but has memberships like all others (`all_points_membership_vectors`), and the label
    of the greatest.

    Returns:
        labels (utterances,), clusters numbered by size, the largest first; memberships (utterances, clusters), which
        sum to one; and the parameters used, after retries.
    Raises:
        UserError: there are no clusters, fewer than `args.min_experts`, or fewer than `args.num_experts` with
            `args.no_reduce_experts`.
    """
    points = in_metric(points, args.metric)
    # Copies count once: enough of them have infinite density, by which HDBSCAN divides.
    distinct, copy_of = np.unique(points, axis=0, return_inverse=True)
    fitted, attempts = _fit(distinct, args)
    found = int(fitted.labels_.max()) + 1
    _judge_number(found, attempts, args)

    memberships = _memberships(fitted, found)[copy_of]
    noise = fitted.labels_[copy_of] < 0
    labels = np.where(noise, memberships.argmax(axis=1), fitted.labels_[copy_of])
    merged = merge_clusters(points, labels, args.num_experts)
    sizes = np.bincount(merged[labels])
    by_size = np.argsort(-sizes, kind="stable")
    merged = np.argsort(by_size)[merged]
    # HDBSCAN's are inverse to the distance to a cluster's exemplars, so that a union has the greatest of its parts.
    # Their sum would favour clusters of many parts.
    memberships = np.stack([memberships[:, merged == cluster].max(axis=1) for cluster in range(len(sizes))], axis=1)
    memberships /= memberships.sum(axis=1, keepdims=True)

    if noise.mean() > MUCH_NOISE:
        logger.warning(
            "HDBSCAN takes %d of %d utterances for noise, which has weak soft labels; lower --min_samples, or use "
            "--algorithm spectral",
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
    """Points in which the metric, other than cosine, measures: for cosine their directions, |u - v|^2 = 2 - 2 cos(u,
    v)."""
    return unit(points) if metric == "cosine" else points


def weights_of_unseen(unseen: np.ndarray, fitted: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    """Weights of utterances that were not clustered: the mean of those of the nearest that were.

    `hdbscan.membership_vector` follows another formula than that for fitted points: it is sharper, and puts noise
    beside a cluster into the others.

    Args:
        unseen: (unseen utterances, dimension).
        fitted: (utterances, dimension).
        weights: (utterances, experts), of `fitted`.
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
    """Merge clusters until there are at most `most`: each time the two whose union adds least to the variance within.

    That is Ward's rule (Ward 1963): size_a size_b / (size_a + size_b) |centroid_a - centroid_b|^2, so that small
    clusters go first, and to a near one.

    Args:
        points: (utterances, dimension).
        labels: (utterances,) from 0.
    Returns:
        (clusters,) the new cluster of each, from 0.
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
    """(utterances, clusters), sums to one."""
    if clusters == 1:  # which `all_points_membership_vectors` cannot
        return np.ones((len(fitted.labels_), 1))
    fitted.generate_prediction_data()
    memberships = all_points_membership_vectors(fitted)
    return memberships / memberships.sum(axis=1, keepdims=True)


def _fit(points: np.ndarray, args: ClusteringArguments) -> tuple[HDBSCAN, list[dict]]:
    """The attempt with most clusters, and what each attempt found."""
    size = args.min_cluster_size or max(SMALLEST_CLUSTER, round(SMALLEST_SHARE * len(points)))
    smallest = min(size, SMALLEST_CLUSTER)
    best = None
    most = -1
    attempts = []
    for _ in range(args.max_retries + 1):
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
        attempts.append(
            {
                "min_cluster_size": size,
                "min_samples": samples,
                "clusters": found,
                "noise": int((fitted.labels_ < 0).sum()),
            }
        )
        logger.info(
            "HDBSCAN with min_cluster_size %d, min_samples %d: %d clusters, %d of %d utterances are noise",
            size,
            samples,
            found,
            attempts[-1]["noise"],
            len(points),
        )
        if found > most:
            best = fitted
            most = found
        if found >= (args.min_clusters or args.num_experts) or size == smallest:
            break
        size = max(smallest, size // 2)
    return best, attempts


def _judge_number(found: int, attempts: list[dict], args: ClusteringArguments) -> None:
    """Say what becomes of a number of clusters that is not the wanted one."""
    tried = f"min_cluster_size {', '.join(str(attempt['min_cluster_size']) for attempt in attempts)}"
    clusters = f"{found} cluster{'s' if found > 1 else ''}"
    remedy = "lower --min_cluster_size or --min_samples, or use --algorithm spectral, which finds as many as asked for"
    if found == 0:
        raise UserError(
            f"HDBSCAN found no cluster with {tried}: all utterances of the split train are noise; {remedy}; "
            "--allow_single_cluster with --min_experts 1 makes one expert of them"
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
            "HDBSCAN found %d clusters, more than the %d of --num_experts: those that are merged add least to the "
            "variance within clusters (Ward's rule); raise --num_experts to keep them apart",
            found,
            args.num_experts,
        )
