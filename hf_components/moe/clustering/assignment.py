"""From embeddings to experts: a label, and weights over the experts, for every utterance of every split."""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.density import density_clusters, weights_of_unseen
from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.moe.clustering.reduction import standardise_and_reduce
from hf_components.moe.clustering.soft_labels import calibrate_temperature, cosine_similarities, softmax
from hf_components.moe.clustering.spectral import spectral_clusters
from hf_components.moe.clustering.summary import describe, warn_of_unknown_groups, warn_of_weak_clusters
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

LEAST_MEMBERSHIP = 1e-6  # HDBSCAN's exemplars have a membership of one, which no temperature could soften


@dataclass
class Clustering:
    """Experts of utterances, in the order of the embeddings."""

    labels: np.ndarray  # (utterances,) expert of each
    weights: np.ndarray  # (utterances, experts), rows sum to one
    points: np.ndarray  # (utterances, reduced dimension), input of the clustering
    summary: dict


def cluster(embeddings: Embeddings, args: ClusteringArguments) -> Clustering:
    """Fit experts on the split "train" and give every utterance a label and weights over them.

    - spectral: weights are a softmax over the cosine similarity to the experts' centroids;
    - hdbscan: weights are a softmax over the logarithm of HDBSCAN's memberships; in other splits they are the mean
      weights of the nearest training utterances;
    - group: one expert per group of "train"; weights are one-hot. An utterance of a group that "train" lacks gets
      weights by similarity, as with spectral.

    Raises:
        UserError: a value is out of range, there are too few utterances or groups, or too few clusters are found.
    """
    args.check()
    train = embeddings.splits == FIT_SPLIT
    _check_data(embeddings, train, args)
    points = standardise_and_reduce(embeddings.vectors, train, args.reduce, args.reduce_dim, args.seed)

    names, train_labels, memberships, parameters = _find_experts(embeddings.groups[train], points[train], args)
    centroids = np.stack([points[train][train_labels == expert].mean(axis=0) for expert in range(len(names))])
    similarities = cosine_similarities(points, centroids)
    if memberships is None:
        temperature = calibrate_temperature(similarities[train], args.target_entropy)
        weights = softmax(similarities / temperature)
    else:
        scores = np.log(np.maximum(memberships, LEAST_MEMBERSHIP))
        temperature = calibrate_temperature(scores, args.target_entropy)
        weights = np.empty((len(points), len(names)))
        weights[train] = softmax(scores / temperature)
        weights[~train] = weights_of_unseen(points[~train], points[train], weights[train], args.metric)
    labels = weights.argmax(axis=1)
    labels[train] = train_labels
    if args.algorithm == "group":
        known = np.isin(embeddings.groups, names)
        labels[known] = np.searchsorted(names, embeddings.groups[known])
        weights[known] = np.eye(len(names))[labels[known]]
        warn_of_unknown_groups(embeddings.groups[~known], names)

    summary = {
        "algorithm": args.algorithm,
        "num_experts": len(names),
        "expert_names": list(map(str, names)),
        "embeddings": embeddings.source,
        "reduce": args.reduce,
        "reduced_dim": points.shape[1],
        "seed": args.seed,
        "parameters": parameters,
        "temperature": temperature,
        "target_entropy": args.target_entropy,
        "nearest_centroid_agreement": float((similarities[train].argmax(axis=1) == train_labels).mean()),
        **describe(embeddings, train, points[train], labels, weights, args.seed),
    }
    warn_of_weak_clusters(embeddings, train, summary)
    return Clustering(labels, weights, points, summary)


def labels_table(embeddings: Embeddings, clustering: Clustering) -> pyarrow.Table:
    """The columns `id`, `split`, `label` and `weights`; later stages look them up by `id`."""
    flat = pyarrow.array(clustering.weights.astype(np.float32).ravel())
    return pyarrow.table(
        {
            "id": embeddings.ids,
            "split": embeddings.splits,
            "label": clustering.labels,
            "weights": pyarrow.FixedSizeListArray.from_arrays(flat, clustering.weights.shape[1]),
        }
    )


def _check_data(embeddings: Embeddings, train: np.ndarray, args: ClusteringArguments) -> None:
    if not train.any():
        raise UserError(
            f"clusters are fitted on the split {FIT_SPLIT}, but there are only "
            f"{', '.join(np.unique(embeddings.splits))}"
        )
    experts = args.num_experts
    if args.algorithm == "group":
        groups = np.unique(embeddings.groups[train])
        if len(groups) < 2:
            raise UserError(
                f"--algorithm group needs at least two groups in the split {FIT_SPLIT}, got only {str(groups[0])!r}; "
                "use --algorithm spectral"
            )
        if len(groups) != experts:
            logger.warning(
                "--algorithm group makes one expert per group: %d, not the %d of --num_experts", len(groups), experts
            )
        experts = len(groups)
    if train.sum() <= experts:
        raise UserError(
            f"the split {FIT_SPLIT} must have more utterances than experts, got {int(train.sum())} for {experts}; "
            "lower --num_experts or add data"
        )


def _find_experts(
    groups: np.ndarray, points: np.ndarray, args: ClusteringArguments
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, dict]:
    """Names of the experts, labels of the utterances, their memberships (hdbscan only), and the parameters used."""
    if args.algorithm == "group":
        names = np.unique(groups)
        return names, np.searchsorted(names, groups), None, {}
    if args.algorithm == "spectral":
        labels, parameters = spectral_clusters(points, args.num_experts, args.seed)
        memberships = None
    else:
        labels, memberships, parameters = density_clusters(points, args)
    return np.array([f"cluster {expert}" for expert in range(labels.max() + 1)]), labels, memberships, parameters
