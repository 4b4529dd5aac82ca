"""Clusters of synthetic embeddings that behave like Whisper's: a large common offset, dimensions of unequal scale."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from hf_components.clustering import (
    Embeddings,
    calibrate_temperature,
    cluster,
    cosine_similarities,
    labels_table,
    load_embeddings,
    normalised_entropy,
    softmax,
    spectral_labels,
    standardise_and_reduce,
)
from hf_components.errors import UserError
from hf_components.plots import plot_clusters

pytestmark = pytest.mark.unit

GROUPS = ("adult", "child", "digits", "studio")


def make_embeddings(utterances: int = 240, spread: float = 1.0, dimension: int = 32, groups=GROUPS, speakers: int = 5,
                    seed: int = 0) -> Embeddings:
    """One blob per group; the last speaker of every group is in "dev"."""
    rng = np.random.default_rng(seed)
    blob = np.arange(utterances) % len(groups)
    speaker = np.arange(utterances) // len(groups) % speakers
    vectors = 2 * rng.normal(size=(len(groups), dimension))[blob] + spread * rng.normal(size=(utterances, dimension)) + 50
    vectors[:, 3] *= 40  # an outlier dimension, as trained encoders have
    vectors[:, 4] = 0.1  # a constant one
    return Embeddings(
        ids=np.array([f"u{i}" for i in range(utterances)]),
        splits=np.where((speaker == speakers - 1) & (speakers > 1), "dev", "train"),
        speakers=np.array([f"{b}-{s}" for b, s in zip(blob, speaker, strict=True)]),
        groups=np.array(groups)[blob], durations=rng.uniform(1, 9, utterances), vectors=vectors.astype(np.float32),
        source={"model": "tiny", "layer": 2, "pooling": "mean"})


def write(embeddings: Embeddings, folder: Path, **replaced) -> Path:
    columns = {"id": embeddings.ids, "split": embeddings.splits, "speaker_id": embeddings.speakers,
               "group": embeddings.groups, "duration": embeddings.durations, "embedding": list(embeddings.vectors)}
    columns = {name: column for name, column in {**columns, **replaced}.items() if column is not None}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "embeddings.parquet")
    (folder / "embeddings.json").write_text(json.dumps(embeddings.source))
    return folder


@pytest.mark.parametrize("reduce", ["pca", "none"])
def test_recovers_the_blobs_in_every_split(reduce):
    embeddings = make_embeddings()
    result = cluster(embeddings, num_experts=4, reduce=reduce, reduce_dim=10)
    for split in ("train", "dev"):
        rows = embeddings.splits == split
        assert adjusted_rand_score(embeddings.groups[rows], result.labels[rows]) == 1
    assert result.points.shape == (240, 10 if reduce == "pca" else 32)
    assert (result.weights.argmax(axis=1) == result.labels).all()
    summary = result.summary
    assert summary["sizes"] == [48] * 4 and summary["splits"]["dev"]["per_expert"] == [12] * 4
    assert summary["agreement_nmi"]["group"] == pytest.approx(1)
    assert summary["agreement_nmi"]["duration_quartile"] < 0.1
    assert summary["silhouette"] > 0.5
    assert sorted(summary["contingency"]["child"]) == [0, 0, 0, 48]


@pytest.mark.parametrize("target", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_soft_labels_have_the_entropy_asked_for(target, spread):
    embeddings = make_embeddings(spread=spread)
    result = cluster(embeddings, num_experts=4, target_entropy=target)
    train = result.weights[embeddings.splits == "train"]
    entropy = -(train * np.log(train + 1e-300)).sum(axis=1) / np.log(4)
    assert entropy.mean() == pytest.approx(target, abs=1e-6)
    assert result.summary["mean_entropy"] == pytest.approx(target, abs=1e-6)
    np.testing.assert_allclose(result.weights.sum(axis=1), 1)


def test_hard_and_soft_labels_mostly_agree_where_blobs_overlap():
    embeddings = make_embeddings(utterances=600, spread=4.0)
    result = cluster(embeddings, num_experts=4)
    assert 0.8 < result.summary["nearest_centroid_agreement"] < 1
    assert (result.weights.argmax(axis=1) == result.labels).mean() > 0.8


def test_raw_cosines_would_be_nearly_uniform():
    """Why the embeddings are standardised first."""
    embeddings = make_embeddings()
    centroids = np.stack([embeddings.vectors[embeddings.groups == group].mean(axis=0) for group in GROUPS])
    raw = softmax(cosine_similarities(embeddings.vectors, centroids))
    assert normalised_entropy(raw).mean() > 0.999
    assert calibrate_temperature(cosine_similarities(embeddings.vectors, centroids), 0.3) < 0.01


def test_constant_dimensions_stay_constant():
    vectors = make_embeddings().vectors
    points = standardise_and_reduce(vectors, np.full(len(vectors), True), None, seed=0)
    np.testing.assert_allclose(points[:, 4], 0, atol=1e-12)
    np.testing.assert_allclose(np.delete(points, 4, axis=1).std(axis=0), 1)


def test_is_deterministic_and_depends_on_train_alone():
    embeddings = make_embeddings(spread=4.0)
    first, second = cluster(embeddings), cluster(embeddings)
    assert (first.weights == second.weights).all() and (first.labels == second.labels).all()
    train = embeddings.splits == "train"
    embeddings.vectors[~train] *= -3
    moved = cluster(embeddings)
    np.testing.assert_array_equal(first.weights[train], moved.weights[train])
    assert not np.allclose(first.weights[~train], moved.weights[~train])


def test_equals_spectral_clustering_of_scikit_learn():
    embeddings = make_embeddings(utterances=400, spread=2.5)
    points = standardise_and_reduce(embeddings.vectors, np.full(400, True), 20, seed=0)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    reference = SpectralClustering(4, affinity="nearest_neighbors", n_neighbors=11, random_state=0).fit_predict(unit)
    assert adjusted_rand_score(reference, spectral_labels(points, 4, seed=0)) > 0.98


@pytest.mark.parametrize(("blobs", "experts"), [(4, 4), (3, 5), (9, 4)])
def test_graphs_that_fall_apart(blobs, experts):
    """Far apart, the blobs are components of the graph: fewer than, as many as, and more than experts."""
    embeddings = make_embeddings(utterances=360, spread=0.05, groups=[f"group {i}" for i in range(blobs)])
    result = cluster(embeddings, num_experts=experts)
    assert min(result.summary["sizes"]) > 10
    counts = np.array(list(result.summary["contingency"].values()))  # (groups, experts)
    if experts >= blobs:
        assert ((counts > 0).sum(axis=0) == 1).all()  # no expert mixes blobs
    else:
        assert counts.max(axis=1).sum() > 0.9 * counts.sum()  # blobs stay together


def test_group_gives_one_hot_weights_and_soft_ones_to_unknown_groups(caplog):
    embeddings = make_embeddings()
    dev = np.flatnonzero(embeddings.splits == "dev")
    stranger = dev[0]
    near = list(GROUPS).index(embeddings.groups[stranger])
    embeddings.groups[stranger] = "new"
    with caplog.at_level(logging.WARNING):
        result = cluster(embeddings, "group", num_experts=7)
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
    cluster(embeddings)
    assert "single speaker, 'me'" in caplog.text
    caplog.clear()
    embeddings = make_embeddings()
    embeddings.durations = np.argmax(embeddings.groups[:, None] == np.array(GROUPS), axis=1) + 1.0
    embeddings.groups[:] = "all"
    cluster(embeddings)
    assert "follow the length of the utterances" in caplog.text
    caplog.clear()
    embeddings = make_embeddings()
    rows = np.flatnonzero(embeddings.groups == "adult")[3:]
    embeddings.vectors[rows] = embeddings.vectors[rows + 1]
    embeddings.groups[rows] = "child"
    cluster(embeddings, "group")
    assert "the smallest cluster has 3 of 192 utterances" in caplog.text


@pytest.mark.parametrize(("embeddings", "options", "message"), [
    (make_embeddings(utterances=8, speakers=1), {"num_experts": 8}, "more utterances than experts, got 8 for 8"),
    (make_embeddings(), {"num_experts": 1}, "num_experts must be at least 2, got 1"),
    (make_embeddings(groups=("all",)), {"algorithm": "group"}, "at least two groups .* only 'all'"),
    (make_embeddings(), {"algorithm": "hdbscan"}, "algorithm must be one of spectral, group, got 'hdbscan'"),
    (make_embeddings(), {"reduce": "umap"}, "reduce must be none or pca, got 'umap'"),
    (make_embeddings(), {"reduce_dim": 0}, "reduce_dim must be at least 2, got 0"),
    (make_embeddings(), {"target_entropy": 1.0}, "target_entropy must lie between 0 .* got 1.0"),
])
def test_wrong_options_are_named(embeddings, options, message):
    with pytest.raises(UserError, match=message):
        cluster(embeddings, **options)


def test_embeddings_that_cannot_be_clustered():
    embeddings = make_embeddings()
    embeddings.vectors[:] = 1
    with pytest.raises(UserError, match="are all equal"):
        cluster(embeddings)
    embeddings = make_embeddings()
    embeddings.splits[:] = "dev"
    with pytest.raises(UserError, match="fitted on the split train, but there are only dev"):
        cluster(embeddings)


def test_embeddings_survive_the_file(tmp_path):
    embeddings = make_embeddings(utterances=12)
    loaded = load_embeddings(write(embeddings, tmp_path))
    for name in ("ids", "splits", "speakers", "groups", "durations", "vectors"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(embeddings, name))
    assert loaded.vectors.dtype == np.float32 and loaded.source == embeddings.source


@pytest.mark.parametrize(("replaced", "message"), [
    ({"group": None}, "lacks the column group"),
    ({"speaker_id": ["a", None] * 6}, "empty cells in speaker_id"),
    ({"embedding": [[1.0, 2.0]] * 11 + [[1.0]]}, "must have one length, got 1 to 2"),
    ({"embedding": [[1.0, 2.0]] * 10 + [[1.0, float("nan")], [float("inf"), 1.0]]}, "2 of 12 .* not finite, .* 'u10'"),
    ({"embedding": [1.0] * 12}, "must hold lists of numbers, got double"),
])
def test_wrong_files_are_named(tmp_path, replaced, message):
    write(make_embeddings(utterances=12), tmp_path, **replaced)
    with pytest.raises(UserError, match=message):
        load_embeddings(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match="embeddings.parquet does not exist"):
        load_embeddings(tmp_path)
    write(make_embeddings(utterances=12), tmp_path)
    (tmp_path / "embeddings.json").unlink()
    with pytest.raises(UserError, match="embeddings.json does not exist"):
        load_embeddings(tmp_path)
    (tmp_path / "embeddings.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="are damaged"):
        load_embeddings(tmp_path)


def test_labels_table_can_be_joined_by_id():
    embeddings = make_embeddings(utterances=24)
    result = cluster(embeddings)
    table = labels_table(embeddings, result)
    assert table.schema.names == ["id", "split", "label", "weights"]
    assert table.schema.field("weights").type == pyarrow.list_(pyarrow.float32())
    assert table["id"].to_pylist() == embeddings.ids.tolist()
    np.testing.assert_allclose(np.array(table["weights"].to_pylist()), result.weights, atol=1e-6)


def test_plot_shows_every_cluster_in_its_own_colour(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(6000, 2))
    names = [f"cluster {i % 9}" for i in range(6000)]
    plot_clusters(tmp_path / "clusters.png", points, names, np.repeat(["a", "b"], 3000), "title")
    image = Image.open(tmp_path / "clusters.png")
    assert image.size == (1440, 768)
    assert len(image.convert("RGB").getcolors(2**20)) > 100
