"""From embeddings to labels and soft weights, for every algorithm and every split."""

import logging

import numpy as np
import pyarrow
import pytest
from scipy.special import softmax
from sklearn.metrics import adjusted_rand_score
from synthetic_embeddings import GROUPS, make_embeddings

from hf_components.moe.clustering import ClusteringArguments, cluster, labels_table
from hf_components.moe.clustering.soft_labels import (
    calibrate_temperature,
    cosine_similarities,
    normalised_entropy,
)
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

ALGORITHMS = {
    "kmeans": {},
    "ward": {},
    "gmm": {},
    "spectral": {"cluster_by": "utterance"},
    "hdbscan": {"min_cluster_size": 20, "metric": "cosine"},
    "group": {},
}


def options(algorithm: str = "kmeans", **given) -> ClusteringArguments:
    return ClusteringArguments(algorithm=algorithm, **{**ALGORITHMS[algorithm], **given})


@pytest.mark.parametrize("reduce", ["pca", "none"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_recovers_the_blobs_in_every_split(algorithm, reduce):
    embeddings = make_embeddings()
    result = cluster(embeddings, options(algorithm, reduce=reduce, reduce_dim=10 if reduce == "pca" else 50))
    for split in ("train", "dev"):
        rows = embeddings.splits == split
        assert adjusted_rand_score(embeddings.groups[rows], result.labels[rows]) == 1
    assert result.points.shape == (240, 10 if reduce == "pca" else 32)
    assert (result.weights.argmax(axis=1) == result.labels).all()
    np.testing.assert_allclose(result.weights.sum(axis=1), 1)
    summary = result.summary
    assert summary["sizes"] == [48] * 4 and summary["splits"]["dev"]["per_expert"] == [12] * 4
    assert summary["agreement_nmi"]["group"] == pytest.approx(1)
    assert summary["agreement_nmi"]["duration_quartile"] < 0.1
    assert summary["silhouette"] > 0.5
    assert sorted(summary["contingency"]["child"]) == [0, 0, 0, 48]
    assert (summary["algorithm"], summary["num_experts"], summary["reduce"]) == (algorithm, 4, reduce)


@pytest.mark.parametrize("target", [0.1, 0.3, 0.7])
@pytest.mark.parametrize(
    ("algorithm", "spread"), [("kmeans", 1.0), ("spectral", 1.0), ("spectral", 6.0), ("hdbscan", 1.0)]
)
def test_soft_labels_have_the_entropy_asked_for(algorithm, spread, target):
    embeddings = make_embeddings(spread=spread)
    result = cluster(embeddings, options(algorithm, target_entropy=target))
    train = result.weights[embeddings.splits == "train"]
    entropy = -(train * np.log(train + 1e-300)).sum(axis=1) / np.log(4)
    assert entropy.mean() == pytest.approx(target, abs=1e-6)
    assert result.summary["mean_entropy"] == pytest.approx(target, abs=1e-6)
    assert result.summary["splits"]["dev"]["mean_entropy"] == pytest.approx(target, abs=0.15)
    np.testing.assert_allclose(result.weights.sum(axis=1), 1)


def test_hard_and_soft_labels_mostly_agree_where_blobs_overlap():
    embeddings = make_embeddings(utterances=600, spread=4.0)
    result = cluster(embeddings, options("spectral"))
    assert 0.8 < result.summary["nearest_centroid_agreement"] < 1
    assert (result.weights.argmax(axis=1) == result.labels).mean() > 0.8


def test_one_expert_carries_all_the_weight():
    embeddings = make_embeddings(groups=("all",))
    result = cluster(
        embeddings,
        ClusteringArguments(
            algorithm="hdbscan",
            allow_single_cluster=True,
            min_experts=1,
            min_cluster_size=60,
            min_samples=3,
            max_retries=0,
        ),
    )
    assert (result.weights == 1).all() and result.summary["expert_names"] == ["cluster 0"]
    assert result.summary["silhouette"] is None and result.summary["mean_entropy"] == 0


def test_raw_cosines_would_be_nearly_uniform():
    """Why the embeddings are standardised first."""
    embeddings = make_embeddings()
    centroids = np.stack([embeddings.vectors[embeddings.groups == group].mean(axis=0) for group in GROUPS])
    raw = softmax(cosine_similarities(embeddings.vectors, centroids), axis=-1)
    assert normalised_entropy(raw).mean() > 0.999
    assert calibrate_temperature(cosine_similarities(embeddings.vectors, centroids), 0.3) < 0.01


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_is_deterministic_and_depends_on_train_alone(algorithm):
    embeddings = make_embeddings(spread=1.5)
    embeddings.groups[0] = "new"  # a train group of one, for weights of group that are not one-hot elsewhere
    first, second = cluster(embeddings, options(algorithm)), cluster(embeddings, options(algorithm))
    assert (first.weights == second.weights).all() and first.summary == second.summary
    train = embeddings.splits == "train"
    embeddings.vectors[~train] *= -3
    moved = cluster(embeddings, options(algorithm))
    np.testing.assert_array_equal(first.weights[train], moved.weights[train])
    if algorithm != "group":
        assert not np.allclose(first.weights[~train], moved.weights[~train])


def test_group_gives_one_hot_weights_and_soft_ones_to_unknown_groups(caplog):
    embeddings = make_embeddings()
    dev = np.flatnonzero(embeddings.splits == "dev")
    stranger = dev[0]
    near = list(GROUPS).index(embeddings.groups[stranger])
    embeddings.groups[stranger] = "new"
    with caplog.at_level(logging.WARNING):
        result = cluster(embeddings, options("group", num_experts=7))
    assert result.summary["num_experts"] == 4 and result.summary["expert_names"] == list(GROUPS)
    known = np.arange(240) != stranger
    np.testing.assert_array_equal(result.weights[known], np.eye(4)[result.labels[known]])
    assert (np.array(GROUPS)[result.labels[known]] == embeddings.groups[known]).all()
    assert result.labels[stranger] == near and 0.5 < result.weights[stranger, near] < 1
    assert "one expert per group: 4, not the 7" in caplog.text
    assert "1 utterances have the group 'new'" in caplog.text


def test_warns_of_a_single_speaker_small_clusters_and_clusters_of_length(caplog):
    embeddings = make_embeddings(speakers=1)
    embeddings.speakers[:] = "me"
    cluster(embeddings, options())
    assert "single speaker, 'me'" in caplog.text
    caplog.clear()
    embeddings = make_embeddings()
    embeddings.durations = np.argmax(embeddings.groups[:, None] == np.array(GROUPS), axis=1) + 1.0
    embeddings.groups[:] = "all"
    cluster(embeddings, options())
    assert "follow the length of the utterances" in caplog.text
    caplog.clear()
    embeddings = make_embeddings()
    rows = np.flatnonzero(embeddings.groups == "adult")[3:]
    embeddings.vectors[rows] = embeddings.vectors[rows + 1]
    embeddings.groups[rows] = "child"
    cluster(embeddings, options("group"))
    assert "the smallest cluster has 3 of 192 utterances" in caplog.text


@pytest.mark.parametrize(
    ("embeddings", "given", "message"),
    [
        (make_embeddings(utterances=8, speakers=1), {"num_experts": 8}, "more utterances than experts, got 8 for 8"),
        (make_embeddings(groups=("all",)), {"algorithm": "group"}, "at least two groups .* only 'all'"),
    ],
)
def test_too_few_data_are_told(embeddings, given, message):
    with pytest.raises(UserError, match=message):
        cluster(embeddings, options(**given))


def test_embeddings_without_a_split_to_fit_on():
    embeddings = make_embeddings()
    embeddings.splits[:] = "dev"
    with pytest.raises(UserError, match="fitted on the split train, but there are only dev"):
        cluster(embeddings, options())


def test_labels_table_can_be_joined_by_id():
    embeddings = make_embeddings(utterances=24)
    result = cluster(embeddings, options())
    table = labels_table(embeddings, result)
    assert table.schema.names == ["id", "split", "label", "weights"]
    assert table.schema.field("weights").type == pyarrow.list_(pyarrow.float32(), 4)
    assert table["id"].to_pylist() == embeddings.ids.tolist()
    np.testing.assert_allclose(np.array(table["weights"].to_pylist()), result.weights, atol=1e-6)
