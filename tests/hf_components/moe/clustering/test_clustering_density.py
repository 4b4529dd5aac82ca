"""HDBSCAN: what it finds, what is made of it, and the memberships of noise and of unseen utterances."""

import contextlib
import logging

import numpy as np
import pytest
from hdbscan import HDBSCAN, all_points_membership_vectors, membership_vector
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score
from synthetic_embeddings import make_embeddings

from hf_components.moe.clustering import ClusteringArguments, cluster
from hf_components.moe.clustering.density import density_clusters, merge_clusters, weights_of_unseen
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

CORNERS = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [30, 5], [31, 14]], float)


def blobs(*sizes: int, noise: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dense blobs in the plane, at distances of about ten times their width, and points far from all."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    points = CORNERS[truth] + rng.normal(size=(len(truth), 2))
    angle = np.linspace(0, 2 * np.pi, noise, endpoint=False)
    return np.concatenate([points, 90 * np.stack([np.cos(angle), np.sin(angle)], 1)]), np.append(
        truth, np.full(noise, -1)
    )


def options(**given) -> ClusteringArguments:
    return ClusteringArguments(algorithm="hdbscan", **given)


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "chebyshev"])
def test_finds_the_blobs_and_numbers_them_by_size(metric, caplog):
    points, truth = blobs(40, 90, 60)
    labels, memberships, used = density_clusters(points, options(num_experts=3, metric=metric, min_cluster_size=20))
    np.testing.assert_array_equal(labels, np.array([2, 0, 1])[truth])
    assert memberships.shape == (190, 3) and (memberships.argmax(axis=1) == labels).all()
    np.testing.assert_allclose(memberships.sum(axis=1), 1)
    assert (used["clusters_found"], used["noise"], used["min_cluster_size"], used["min_samples"]) == (3, 0, 20, 20)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_memberships_are_those_of_the_package():
    points, _ = blobs(40, 40, noise=6)
    labels, memberships, _ = density_clusters(points, options(num_experts=2, min_cluster_size=10, min_samples=4))
    reference = HDBSCAN(min_cluster_size=10, min_samples=4, prediction_data=True).fit(points)
    expected = all_points_membership_vectors(reference)
    expected /= expected.sum(axis=1, keepdims=True)
    same_order = (labels == reference.labels_)[:80].all()
    np.testing.assert_allclose(memberships, expected if same_order else expected[:, ::-1])


def test_the_cosine_metric_sees_directions_alone():
    rng = np.random.default_rng(0)
    truth = np.arange(150) % 3
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[truth] + 0.05 * rng.normal(size=(150, 3))
    points = directions * np.exp(rng.normal(0, 2, (150, 1)))  # lengths over several powers of ten
    labels, _, used = density_clusters(points, options(num_experts=3, metric="cosine", min_cluster_size=20))
    assert adjusted_rand_score(truth, labels) == 1 and used["metric"] == "cosine"
    nearest = weights_of_unseen(np.eye(3) * 1e-3, points, np.eye(3)[labels], "cosine").argmax(axis=1)
    assert [labels[truth == axis][0] for axis in range(3)] == nearest.tolist()


def test_noise_gets_memberships_and_the_label_of_the_greatest():
    points, truth = blobs(60, 50, 40, noise=8)
    labels, memberships, used = density_clusters(points, options(num_experts=3, min_cluster_size=20, min_samples=5))
    assert used["noise"] >= 8 and used["clusters_found"] == 3
    noise = memberships[truth < 0]
    np.testing.assert_allclose(noise.sum(axis=1), 1)
    assert np.isfinite(noise).all() and (noise.argmax(axis=1) == labels[truth < 0]).all()
    # Far from all it belongs to none much more than to another, yet most to the nearest.
    assert noise.max() < 0.6 < np.median(memberships[truth >= 0].max(axis=1))
    centroids = np.stack([points[truth == blob].mean(axis=0) for blob in range(3)])
    nearest = np.linalg.norm(points[truth < 0][:, None] - centroids, axis=-1).argmin(axis=1)
    assert (labels[truth < 0] == nearest).mean() >= 0.75


def test_tries_again_with_smaller_clusters(caplog):
    points, truth = blobs(200, 24, 24, 24)
    with caplog.at_level(logging.INFO):
        labels, _, used = density_clusters(points, options(num_experts=4, min_cluster_size=80, min_samples=5))
    assert [attempt["min_cluster_size"] for attempt in used["attempts"]] == [80, 40, 20]
    assert [attempt["clusters"] for attempt in used["attempts"]] == [0, 2, 4]
    assert used["min_cluster_size"] == 20 and adjusted_rand_score(truth, labels) > 0.95
    assert "with min_cluster_size 40, min_samples 5: 2 clusters" in caplog.text
    _, _, enough = density_clusters(points, options(num_experts=4, min_cluster_size=80, min_samples=5, min_clusters=2))
    assert [attempt["min_cluster_size"] for attempt in enough["attempts"]] == [80, 40]
    with pytest.raises(UserError, match="found no cluster with min_cluster_size 80: all utterances .* are noise"):
        density_clusters(points, options(num_experts=4, min_cluster_size=80, min_samples=5, max_retries=0))


def test_the_attempt_with_most_clusters_counts_the_first_of_equals():
    points, _ = blobs(60, 60)
    _, _, used = density_clusters(points, options(num_experts=5, min_cluster_size=40, min_samples=10))
    assert [attempt["min_cluster_size"] for attempt in used["attempts"]] == [40, 20, 10, 5]
    assert used["clusters_found"] == max(attempt["clusters"] for attempt in used["attempts"])
    best = next(attempt for attempt in used["attempts"] if attempt["clusters"] == used["clusters_found"])
    assert used["min_cluster_size"] == best["min_cluster_size"] == 40


def test_fewer_clusters_reduce_the_experts_unless_that_is_forbidden(caplog):
    points, _ = blobs(60, 60)
    given = {"num_experts": 4, "min_cluster_size": 40, "min_samples": 10}
    labels, memberships, _ = density_clusters(points, options(**given))
    assert labels.max() == 1 and memberships.shape == (120, 2)
    assert "the number of experts is reduced from 4 to 2" in caplog.text
    with pytest.raises(
        UserError, match="found 2 clusters .*, not the 4 of --num_experts, and --no_reduce_experts forbids"
    ):
        density_clusters(points, options(**given, no_reduce_experts=True))
    with pytest.raises(UserError, match="found 2 clusters .*, fewer than the 3 of --min_experts"):
        density_clusters(points, options(**given, min_experts=3))


def test_one_cluster_is_refused_unless_one_expert_will_do(caplog):
    points, _ = blobs(80)
    given = {"num_experts": 4, "min_cluster_size": 30, "min_samples": 3, "max_retries": 0}
    with pytest.raises(UserError, match="found no cluster"):
        density_clusters(points, options(**given))
    with pytest.raises(UserError, match="found 1 cluster with min_cluster_size 30, fewer than the 2 of --min_experts"):
        density_clusters(points, options(**given, allow_single_cluster=True))
    labels, memberships, used = density_clusters(points, options(**given, allow_single_cluster=True, min_experts=1))
    assert not labels.any() and (memberships == 1).all() and used["clusters_found"] == 1
    assert "reduced from 4 to 1" in caplog.text and "a mixture of one expert is a plain LoRA" in caplog.text


def test_more_clusters_are_merged_with_the_greatest_of_their_memberships(caplog):
    points, truth = blobs(60, 40, 40, 40, 40, 30)
    labels, memberships, used = density_clusters(points, options(num_experts=5, min_cluster_size=20, min_samples=5))
    assert used["clusters_found"] == 6 and "found 6 clusters, more than the 5 of --num_experts" in caplog.text
    assert (
        memberships.shape == (250, 5) and len(set(labels[truth >= 4])) == 1
    )  # the two that are nearest to each other
    assert sorted(np.bincount(labels)) == [40, 40, 40, 60, 70]
    single, apart, _ = density_clusters(points, options(num_experts=6, min_cluster_size=20, min_samples=5))
    columns = [apart[:, single[truth == blob][0]] for blob in range(6)]
    expected = np.stack([*columns[:4], np.maximum(columns[4], columns[5])], axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(memberships[:, [labels[truth == blob][0] for blob in range(5)]], expected)


def test_merging_many_parts_does_not_draw_all_into_the_union():
    """Sixteen of twenty clusters lie together: the others' utterances stay with the others."""
    rng = np.random.default_rng(0)
    centres = np.concatenate(
        [[[x, y] for x in range(0, 40, 10) for y in range(0, 40, 10)], [[-100, 0], [0, -100], [130, 0], [0, 130]]]
    ).astype(float)
    truth = np.repeat(np.arange(20), 25)
    points = centres[truth] + rng.normal(size=(500, 2))
    labels, memberships, used = density_clusters(points, options(num_experts=5, min_cluster_size=15, min_samples=5))
    assert used["clusters_found"] >= 20
    assert (memberships.argmax(axis=1) == labels).mean() > 0.98
    assert adjusted_rand_score(np.maximum(truth, 15), labels) > 0.95


def test_merging_follows_ward():
    points = np.random.default_rng(0).normal(size=(30, 4))
    tree = linkage(points, "ward")
    for most in (30, 12, 5, 1):
        merged = merge_clusters(points, np.arange(30), most)
        assert adjusted_rand_score(fcluster(tree, most, "maxclust"), merged) == 1 and merged.max() == most - 1


def test_copies_do_no_harm():
    points, truth = blobs(60, 60)
    points[:25], points[60:75] = points[0], points[60]
    labels, memberships, _ = density_clusters(points, options(num_experts=2, min_cluster_size=10, min_samples=5))
    assert adjusted_rand_score(truth, labels) == 1 and np.isfinite(memberships).all()
    assert (memberships[:25] == memberships[0]).all()


def test_unseen_utterances_take_after_the_nearest():
    points, truth = blobs(60, 60, 60)
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 180)
    unseen = CORNERS[:2] + 0.3
    found = weights_of_unseen(unseen, points, weights, "euclidean")
    distances = np.linalg.norm(unseen[:, None] - points, axis=-1)
    np.testing.assert_allclose(found, weights[distances.argsort(axis=1)[:, :10]].mean(axis=1))
    assert weights_of_unseen(unseen[:0], points, weights, "euclidean").shape == (0, 3)


def test_unseen_noise_is_labelled_as_well_as_fitted_noise():
    """`hdbscan.membership_vector` does not: it puts noise beside a cluster into the others."""
    embeddings = make_embeddings(utterances=1200, spread=1.5, dimension=16, seed=1)
    train = embeddings.splits == "train"
    args = options(reduce_dim=8, min_cluster_size=30, min_samples=10)
    result = cluster(embeddings, args)
    assert result.summary["parameters"]["noise"] > 0.4 * train.sum()
    fitted, unseen = (adjusted_rand_score(embeddings.groups[rows], result.labels[rows]) for rows in (train, ~train))
    assert fitted > 0.9 and unseen > 0.9
    package = HDBSCAN(min_cluster_size=30, min_samples=10, prediction_data=True).fit(result.points[train])
    theirs = membership_vector(package, result.points[~train]).argmax(axis=1)
    assert adjusted_rand_score(embeddings.groups[~train], theirs) < unseen - 0.2


def test_is_deterministic():
    embeddings = make_embeddings(utterances=400, spread=2.0)
    one, other = (cluster(embeddings, options(reduce_dim=8)) for _ in range(2))
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.summary == other.summary


def test_retries_that_end_early_are_warned_of(caplog):
    points = np.random.default_rng(0).standard_normal((200, 3))
    with contextlib.suppress(UserError):
        density_clusters(points, options(num_experts=100, min_cluster_size=10, min_samples=5, max_retries=9))
    assert "HDBSCAN stops at min_cluster_size 5, although 8 retries are left" in caplog.text
