"""Divide utterances among experts: cluster their embeddings, and soften the labels to a chosen entropy.

`cluster` is the whole of it: standardise and reduce, label the split "train", place a centroid per expert, and give
every utterance of every split weights over the experts by its cosine similarity to the centroids.
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import lobpcg
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from sklearn.neighbors import kneighbors_graph

from hf_components.errors import UserError

logger = logging.getLogger(__name__)

ALGORITHMS = ("spectral", "group")
FIT_SPLIT = "train"
COLUMNS = ("id", "split", "speaker_id", "group", "duration", "embedding")
NEIGHBORS = 10
SILHOUETTE_SAMPLE = 5000  # its cost is quadratic
SMALL_CLUSTER = 0.02  # of the utterances
DENSE_UP_TO = 1000  # utterances: below, the exact eigenvectors take no more time


@dataclass
class Embeddings:
    """Embeddings of utterances as `extract_embeddings` leaves them; one entry per utterance in every field."""

    ids: np.ndarray
    splits: np.ndarray
    speakers: np.ndarray
    groups: np.ndarray
    durations: np.ndarray  # seconds
    vectors: np.ndarray  # (utterances, dimension)
    source: dict  # model, layer and pooling, from embeddings.json


@dataclass
class Clustering:
    """Experts of utterances, in the order of the embeddings."""

    labels: np.ndarray  # (utterances,) the expert of each
    weights: np.ndarray  # (utterances, experts) sums to one
    points: np.ndarray  # (utterances, reduced dimension) what was clustered
    summary: dict


def load_embeddings(folder: str | Path) -> Embeddings:
    """Read `embeddings.parquet` and `embeddings.json`.

    Raises:
        UserError: a file is missing or damaged, a column is missing or has empty cells, the embeddings differ in
            length or are not finite.
    """
    file = Path(folder) / "embeddings.parquet"
    try:
        table = pyarrow.parquet.read_table(file)
        source = json.loads((Path(folder) / "embeddings.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or file} does not exist; --embedding_dir takes the output folder of "
                        "extract_embeddings") from error
    except (pyarrow.ArrowInvalid, json.JSONDecodeError) as error:
        raise UserError(f"the embeddings in {folder} are damaged: {error}; extract them again") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{file} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    empty = [name for name in COLUMNS if table[name].null_count]
    if empty or not len(table):
        raise UserError(f"{file} has {'empty cells in ' + ', '.join(empty) if empty else 'no rows'}; extract it again")
    ids, splits, speakers, groups = (np.array(table[name].to_pylist(), dtype=str) for name in COLUMNS[:4])
    return Embeddings(ids, splits, speakers, groups, table["duration"].to_numpy(), _vectors(table, ids, file), source)


def cluster(embeddings: Embeddings, algorithm: str = "spectral", num_experts: int = 4, reduce: str = "pca",
            reduce_dim: int = 50, target_entropy: float = 0.3, seed: int = 42) -> Clustering:
    """Fit experts on the split "train" and give every utterance a label and weights over them.

    With `algorithm="spectral"` the weights are soft. With "group" there is one expert per group of the split "train",
    whatever `num_experts`; weights are one-hot on the own group, and soft for a group that "train" does not have.

    Args:
        reduce: "pca" to `reduce_dim` dimensions, or "none".
        target_entropy: mean entropy of the soft weights over "train", as a share of that of uniform weights.
    Raises:
        UserError: a value out of range, or too few utterances or groups.
    """
    _check_options(algorithm, reduce, reduce_dim, target_entropy)
    train = embeddings.splits == FIT_SPLIT
    names = _expert_names(embeddings, train, algorithm, num_experts)
    points = standardise_and_reduce(embeddings.vectors, train, reduce_dim if reduce == "pca" else None, seed)

    known = np.isin(embeddings.groups, names)
    if algorithm == "spectral":
        train_labels = spectral_labels(points[train], num_experts, seed)
    else:
        train_labels = np.searchsorted(names, embeddings.groups[train])
    centroids = np.stack([points[train][train_labels == expert].mean(axis=0) for expert in range(len(names))])
    similarities = cosine_similarities(points, centroids)
    temperature = calibrate_temperature(similarities[train], target_entropy)
    weights = softmax(similarities / temperature)
    labels = weights.argmax(axis=1)
    agreement = float((labels[train] == train_labels).mean())
    labels[train] = train_labels
    if algorithm == "group":
        labels[known] = np.searchsorted(names, embeddings.groups[known])
        weights[known] = np.eye(len(names))[labels[known]]
        _warn_of_unknown_groups(embeddings.groups[~known], names)

    summary = {
        "algorithm": algorithm, "num_experts": len(names), "expert_names": list(map(str, names)),
        "embeddings": embeddings.source, "reduced_dim": points.shape[1], "seed": seed,
        "temperature": temperature, "target_entropy": target_entropy,
        "nearest_centroid_agreement": agreement,
        **_describe(embeddings, train, points[train], labels, weights, seed),
    }
    _warn_of_weak_clusters(embeddings, train, summary)
    return Clustering(labels, weights, points, summary)


def standardise_and_reduce(vectors: np.ndarray, fit: np.ndarray, reduce_dim: int | None, seed: int) -> np.ndarray:
    """Centre and scale every dimension by the rows in `fit`, then keep their `reduce_dim` principal components.

    A Whisper encoder has a large common offset and a few dimensions that dwarf the rest: without this step all
    cosines are close to one and the soft labels nearly uniform.

    Args:
        vectors: (utterances, dimension).
        fit: (utterances,) boolean, the rows that statistics and components come from.
        reduce_dim: components to keep, at most what the rows in `fit` span; None keeps all dimensions.
    Returns:
        (utterances, reduced dimension), float64.
    Raises:
        UserError: the rows in `fit` are all equal.
    """
    vectors = vectors.astype(np.float64)
    varies = np.ptp(vectors[fit], axis=0) > 0  # the standard deviation of a constant need not be exactly zero
    if not varies.any():
        raise UserError(f"the {int(fit.sum())} embeddings of the split {FIT_SPLIT} are all equal: there is nothing to "
                        "cluster; check the model and layer of extract_embeddings")
    points = (vectors - vectors[fit].mean(axis=0)) / np.where(varies, vectors[fit].std(axis=0), 1)
    if reduce_dim is None:
        return points
    components = min(reduce_dim, int(fit.sum()) - 1, points.shape[1])
    return PCA(components, random_state=seed).fit(points[fit]).transform(points)


def spectral_labels(points: np.ndarray, num_experts: int, seed: int) -> np.ndarray:
    """Spectral clustering (Shi and Malik 2000) of (utterances, dimension) by cosine -> (utterances,).

    The algorithm of scikit-learn's `SpectralClustering(affinity="nearest_neighbors")`, with other eigenvectors: those
    come from factorising the graph, 450 s for 17,000 utterances where LOBPCG takes 10, and from a Lanczos process,
    which overlooks repeated eigenvalues: clear clusters that are components of the graph came out torn and mixed.
    Clusters are numbered by size, the largest first.

    Raises:
        UserError: the points have fewer distinct clusters than `num_experts`.
    """
    graph = _neighbor_graph(_unit(points), num_experts)
    scale = 1 / np.sqrt(graph.sum(axis=1))
    vectors = _leading_eigenvectors(diags_array(scale) @ graph @ diags_array(scale), num_experts, seed)
    labels = KMeans(num_experts, n_init=10, random_state=seed).fit_predict(vectors * scale[:, None])
    sizes = np.bincount(labels, minlength=num_experts)
    if not sizes.all():
        raise UserError(f"the embeddings have only {np.count_nonzero(sizes)} distinct clusters, not {num_experts}; lower "
                        "--num_experts")
    by_size = np.argsort(-sizes, kind="stable")
    return np.argsort(by_size)[labels]


def cosine_similarities(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(utterances, dimension), (experts, dimension) -> (utterances, experts); a zero vector is similar to nothing."""
    return _unit(points) @ _unit(centroids).T


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def normalised_entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy of rows of (utterances, experts), in [0, 1]: 0 is one-hot, 1 is uniform."""
    return -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=-1) / np.log(weights.shape[-1])


def calibrate_temperature(similarities: np.ndarray, target_entropy: float) -> float:
    """The temperature at which softmax(similarities / temperature) has this mean normalised entropy, by bisection.

    Entropy rises with temperature from one-hot to uniform, so that any target in (0, 1) is met once.
    """
    low, high = np.log(1e-6), np.log(1e4)
    for _ in range(60):
        middle = (low + high) / 2
        if normalised_entropy(softmax(similarities / np.exp(middle))).mean() < target_entropy:
            low = middle
        else:
            high = middle
    return float(np.exp(middle))


def labels_table(embeddings: Embeddings, clustering: Clustering) -> pyarrow.Table:
    """Columns `id`, `split`, `label` and `weights`, which the later stages join by `id`."""
    weights = pyarrow.array(list(clustering.weights.astype(np.float32)), pyarrow.list_(pyarrow.float32()))
    return pyarrow.table({"id": embeddings.ids, "split": embeddings.splits, "label": clustering.labels, "weights": weights})


def _vectors(table: pyarrow.Table, ids: np.ndarray, file: Path) -> np.ndarray:
    if not hasattr(table.schema.field("embedding").type, "value_type"):
        raise UserError(f"the column embedding of {file} must hold lists of numbers, got "
                        f"{table.schema.field('embedding').type}; extract it again")
    lengths = pyarrow.compute.list_value_length(table["embedding"]).to_numpy()
    if lengths.min() != lengths.max() or not lengths.min():
        raise UserError(f"all embeddings in {file} must have one length, got {lengths.min()} to {lengths.max()}; "
                        "extract them with one model")
    flat = pyarrow.compute.list_flatten(table["embedding"]).to_numpy()
    vectors = flat.astype(np.float32).reshape(len(ids), -1)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise UserError(f"{int(broken.sum())} of {len(ids)} embeddings in {file} have values that are not finite, first "
                        f"that of {str(ids[broken][0])!r}; extract them in float32 or check that recording")
    return vectors


def _check_options(algorithm: str, reduce: str, reduce_dim: int, target_entropy: float) -> None:
    if algorithm not in ALGORITHMS:
        raise UserError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if reduce not in ("none", "pca"):
        raise UserError(f"reduce must be none or pca, got {reduce!r}")
    if reduce_dim < 2:
        raise UserError(f"reduce_dim must be at least 2, got {reduce_dim}")
    if not 0 < target_entropy < 1:
        raise UserError(f"target_entropy must lie between 0 (one-hot) and 1 (uniform), got {target_entropy}")


def _expert_names(embeddings: Embeddings, train: np.ndarray, algorithm: str, num_experts: int) -> np.ndarray:
    """Names of the experts, in their order, after checking that "train" has enough for so many."""
    if not train.any():
        raise UserError(f"clusters are fitted on the split {FIT_SPLIT}, but there are only "
                        f"{', '.join(np.unique(embeddings.splits))}")
    if algorithm == "group":
        groups = np.unique(embeddings.groups[train])
        if len(groups) < 2:
            raise UserError(f"--algorithm group needs at least two groups in the split {FIT_SPLIT}, got only "
                            f"{str(groups[0])!r}; use --algorithm spectral")
        if len(groups) != num_experts:
            logger.warning("--algorithm group makes one expert per group: %d, not the %d of --num_experts",
                           len(groups), num_experts)
        names = groups
    else:
        names = np.array([f"cluster {expert}" for expert in range(num_experts)])
    if len(names) < 2:
        raise UserError(f"num_experts must be at least 2, got {num_experts}")
    if train.sum() <= len(names):
        raise UserError(f"the split {FIT_SPLIT} must have more utterances than experts, got {int(train.sum())} for "
                        f"{len(names)}; lower --num_experts or add data")
    return names


def _neighbor_graph(points: np.ndarray, num_experts: int) -> csr_array:
    """Symmetric graph of nearest neighbours (sparse), with at most `num_experts` components.

    With more components than clusters the eigenvectors are arbitrary mixtures, so that a few duplicates far from the
    rest decide the result; more neighbours join them.
    """
    neighbors = min(NEIGHBORS, max(1, len(points) // (2 * num_experts)))  # of few points all would be neighbours of all
    while True:
        graph = csr_array(kneighbors_graph(points, neighbors, include_self=False))
        components = connected_components(graph, directed=False, return_labels=False)
        if components <= num_experts:
            return (graph + graph.T) / 2
        neighbors = min(2 * neighbors, len(points) - 1)
        logger.info("the graph of nearest neighbours has %d components, trying %d neighbours", components, neighbors)


def _leading_eigenvectors(matrix: csr_array, count: int, seed: int) -> np.ndarray:
    """Of a symmetric sparse (n, n) -> (n, count), the largest eigenvalue first; repeated eigenvalues are no obstacle."""
    if matrix.shape[0] <= DENSE_UP_TO:
        return np.linalg.eigh(matrix.toarray()).eigenvectors[:, :-count - 1:-1]
    # A block larger than asked for makes the last vectors converge as fast as the first.
    start = np.random.default_rng(seed).normal(size=(matrix.shape[0], count + 4))
    return lobpcg(matrix, start, largest=True, tol=1e-5, maxiter=1000)[1][:, :count]


def _describe(embeddings: Embeddings, train: np.ndarray, train_points: np.ndarray, labels: np.ndarray,
              weights: np.ndarray, seed: int) -> dict:
    """Quality and make-up of the clusters, from "train" where not said otherwise."""
    fitted, experts = labels[train], weights.shape[1]
    groups, durations = embeddings.groups[train], embeddings.durations[train]
    quartile = np.searchsorted(np.quantile(durations, [0.25, 0.5, 0.75]), durations)
    sample = min(SILHOUETTE_SAMPLE, len(fitted))
    return {
        "sizes": np.bincount(fitted, minlength=experts).tolist(),
        # Undefined if every utterance is its own cluster; a sample can also miss all clusters but one.
        "silhouette": float(silhouette_score(train_points, fitted, metric="cosine", sample_size=sample, random_state=seed))
        if 1 < len(np.unique(fitted)) < len(fitted) else None,
        "mean_entropy": float(normalised_entropy(weights[train]).mean()),
        "agreement_nmi": {
            "group": float(normalized_mutual_info_score(groups, fitted)),
            "speaker": float(normalized_mutual_info_score(embeddings.speakers[train], fitted)),
            "duration_quartile": float(normalized_mutual_info_score(quartile, fitted)),
        },
        "contingency": {str(group): np.bincount(fitted[groups == group], minlength=experts).tolist()
                        for group in np.unique(groups)},
        "splits": {str(split): {
            "utterances": int((embeddings.splits == split).sum()),
            "speakers": len(np.unique(embeddings.speakers[embeddings.splits == split])),
            "per_expert": np.bincount(labels[embeddings.splits == split], minlength=experts).tolist(),
            "mean_entropy": float(normalised_entropy(weights[embeddings.splits == split]).mean()),
        } for split in np.unique(embeddings.splits)},
    }


def _warn_of_unknown_groups(unknown: np.ndarray, names: np.ndarray) -> None:
    for group, count in Counter(unknown.tolist()).items():
        logger.warning("%d utterances have the group %r, which the split %s lacks: their weights follow their similarity "
                       "to the groups %s", count, group, FIT_SPLIT, ", ".join(names))


def _warn_of_weak_clusters(embeddings: Embeddings, train: np.ndarray, summary: dict) -> None:
    if len(np.unique(embeddings.speakers[train])) == 1:
        logger.warning("the split %s has a single speaker, %r: clusters follow what is said, a router trained on them "
                       "cannot be expected to know new speakers, and no held-out evaluation is possible; add speakers",
                       FIT_SPLIT, str(embeddings.speakers[train][0]))
    smallest = min(summary["sizes"])
    if smallest < SMALL_CLUSTER * train.sum():
        logger.warning("the smallest cluster has %d of %d utterances: its expert will hardly train; lower --num_experts",
                       smallest, train.sum())
    agreement = summary["agreement_nmi"]
    if agreement["duration_quartile"] > max(agreement["group"], agreement["speaker"]):
        logger.warning("the clusters follow the length of the utterances (NMI %.2f) more than group or speaker; check "
                       "that the embeddings are means over real frames only", agreement["duration_quartile"])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
