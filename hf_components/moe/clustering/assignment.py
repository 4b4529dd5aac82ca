"""From embeddings to experts: a label, and weights over the experts, for every utterance of every split."""

import logging
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow
from scipy.special import softmax

from hf_components.moe.clustering.algorithms import find_clusters
from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.density import weights_of_unseen
from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.moe.clustering.items import (
    Items,
    check_number,
    choose_items,
    make_items,
    number_speakers,
    speakers_of,
    utterances_per_speaker,
)
from hf_components.moe.clustering.reduction import standardise_and_reduce, without_duration
from hf_components.moe.clustering.soft_labels import calibrate_temperature, cosine_similarities
from hf_components.moe.clustering.stability import measure_stability
from hf_components.moe.clustering.summary import (
    measure_silhouette,
    summarise_clusters,
    warn_of_unknown_groups,
    warn_of_weak_clusters,
)
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

LEAST_MEMBERSHIP = 1e-6  # HDBSCAN's exemplars have a membership of one, which no temperature could soften


@dataclass
class Clustering:
    """Experts of utterances, in the order of the embeddings."""

    labels: np.ndarray  # (utterances,) expert of each
    weights: np.ndarray  # (utterances, experts), rows sum to one
    points: np.ndarray  # (utterances, reduced dimension), standardised and reduced
    summary: dict


def reduce_embeddings(embeddings: Embeddings, args: ClusteringArguments) -> np.ndarray:
    """(utterances, reduced dimension): without what follows the duration, standardised and reduced.

    Raises:
        UserError: the split "train" is missing, or has too few groups for `--algorithm group`, or all its embeddings
            are equal.
    """
    train = embeddings.splits == FIT_SPLIT
    _check_data(embeddings, train, args)
    vectors = embeddings.vectors
    if args.remove_duration:
        vectors = without_duration(vectors, embeddings.durations, number_speakers(embeddings.speakers), train)
    return standardise_and_reduce(vectors, train, args.reduce, args.reduce_dim, args.seed)


def assign_experts(embeddings: Embeddings, utterance_points: np.ndarray, args: ClusteringArguments) -> Clustering:
    """Fit experts on the split "train" and give every utterance a label and weights over them.

    - Weights are a softmax over the cosine similarity to the experts' centroids. With hdbscan they are a softmax over
      the logarithm of HDBSCAN's memberships; what was not fitted has the mean weights of its nearest fitted points.
    - By speaker, weights and label are those of the speaker's mean embedding, the same for all of its utterances.
    - group: one expert per group of "train"; weights are one-hot. An utterance of a group that "train" lacks gets
      weights by similarity.

    Args:
        utterance_points: result of `reduce_embeddings`.
    Raises:
        UserError: there are too few utterances or speakers, or too few clusters are found.
    """
    train = embeddings.splits == FIT_SPLIT
    cluster_by = _cluster_by(embeddings, args)
    items = make_items(utterance_points, embeddings, cluster_by)
    groups = np.unique(embeddings.groups[train])
    check_number(items, cluster_by, len(groups) if args.algorithm == "group" else args.num_experts)
    fitted = _groups_as_experts(embeddings, train) if args.algorithm == "group" else _fit(items, embeddings, args)
    similarities = cosine_similarities(items.points, fitted.centroids(items))
    item_weights, temperature = _weights(items, train, similarities, fitted.memberships, args)
    item_labels = item_weights.argmax(axis=1)
    item_labels[items.fit] = fitted.labels
    labels = item_labels[items.of_utterance]
    weights = item_weights[items.of_utterance]
    if args.algorithm == "group":
        _set_known_groups(labels, weights, embeddings.groups, fitted.names)
    nearest = similarities.argmax(axis=1)[items.of_utterance]
    summary = {
        "algorithm": args.algorithm,
        "cluster_by": cluster_by,
        "num_experts": len(fitted.names),
        "expert_names": list(map(str, fitted.names)),
        "embeddings": embeddings.source,
        "remove_duration": args.remove_duration,
        "reduce": args.reduce,
        "reduced_dim": items.points.shape[1],
        "seed": args.seed,
        "parameters": fitted.parameters,
        "temperature": temperature,
        "target_entropy": args.target_entropy,
        "nearest_centroid_agreement": float((nearest[train] == labels[train]).mean()),
        "silhouette": measure_silhouette(items.points[items.fit], fitted.labels, args.seed),
        "stability": fitted.stability,
        **summarise_clusters(embeddings, train, labels, weights),
    }
    warn_of_weak_clusters(embeddings, train, summary)
    return Clustering(labels, weights, utterance_points, summary)


@dataclass
class Fitted:
    """Experts as they were found on the items that are fitted.

    Attributes:
        names: name of each expert.
        labels: expert of each fitted item.
        memberships: HDBSCAN's, `(fitted items, experts)`; None for the other algorithms.
        parameters: parameters of the algorithm, for the record.
        stability: see `measure_stability`; None where nothing was searched for.
    """

    names: np.ndarray
    labels: np.ndarray
    memberships: np.ndarray | None = None
    parameters: dict = field(default_factory=dict)
    stability: dict | None = None

    def centroids(self, items: Items) -> np.ndarray:
        """Mean point of the items of each expert, `(experts, dimension)`."""
        points = items.points[items.fit]
        return np.stack([points[self.labels == expert].mean(axis=0) for expert in range(len(self.names))])


def _groups_as_experts(embeddings: Embeddings, train: np.ndarray) -> Fitted:
    names, labels = np.unique(embeddings.groups[train], return_inverse=True)
    return Fitted(names, labels)


def _fit(items: Items, embeddings: Embeddings, args: ClusteringArguments) -> Fitted:
    """The clusters that an algorithm finds, and how stable they are."""
    train = embeddings.splits == FIT_SPLIT
    find = partial(find_clusters, per_speaker=utterances_per_speaker(items, embeddings.speakers), args=args)
    points = items.points[items.fit]
    labels, memberships, parameters = find(points)
    names = np.array([f"cluster {expert}" for expert in range(labels.max() + 1)])
    stability = measure_stability(
        points,
        labels,
        speakers_of(items, embeddings.speakers),
        np.bincount(items.of_utterance[train], minlength=len(items.fit))[items.fit],
        args.num_experts,
        args.seed,
        find,
    )
    return Fitted(names, labels, memberships, parameters, stability)


def _set_known_groups(labels: np.ndarray, weights: np.ndarray, groups: np.ndarray, names: np.ndarray) -> None:
    """Give utterances of a group that has an expert its label and weight one; warn of other groups."""
    known = np.isin(groups, names)
    labels[known] = np.searchsorted(names, groups[known])
    weights[known] = np.eye(len(names))[labels[known]]
    warn_of_unknown_groups(groups[~known], names)


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
    if args.algorithm == "group":
        groups = np.unique(embeddings.groups[train])
        if len(groups) < 2:
            raise UserError(
                f"--algorithm group needs at least two groups in the split {FIT_SPLIT}, got only {str(groups[0])!r}; "
                "use --algorithm kmeans"
            )
        if len(groups) != args.num_experts:
            logger.warning(
                "--algorithm group makes one expert per group: %d, not the %d of --num_experts",
                len(groups),
                args.num_experts,
            )


def _cluster_by(embeddings: Embeddings, args: ClusteringArguments) -> str:
    if args.algorithm == "group":
        return "utterance"
    if args.cluster_by is None and args.algorithm == "hdbscan":
        return "utterance"  # it looks for dense regions, and speakers are too few to make any
    return args.cluster_by or choose_items(embeddings, args.num_experts)


def _weights(
    items: Items,
    train: np.ndarray,
    similarities: np.ndarray,
    memberships: np.ndarray | None,
    args: ClusteringArguments,
) -> tuple[np.ndarray, float]:
    """(items, experts), and the temperature that gives the fitted utterances of "train" the entropy asked for."""
    points = items.points
    fit = items.fit
    fitted = items.of_utterance[train & fit[items.of_utterance]]  # an item for each utterance
    if memberships is None:
        temperature = calibrate_temperature(similarities[fitted], args.target_entropy)
        return softmax(similarities / temperature, axis=-1), temperature
    scores = np.zeros((len(points), memberships.shape[1]))
    scores[fit] = np.log(np.maximum(memberships, LEAST_MEMBERSHIP))
    temperature = calibrate_temperature(scores[fitted], args.target_entropy)
    weights = softmax(scores / temperature, axis=-1)
    weights[~fit] = weights_of_unseen(points[~fit], points[fit], weights[fit], args.metric)
    return weights, temperature
