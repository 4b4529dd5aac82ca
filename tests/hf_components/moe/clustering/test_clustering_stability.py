"""Stability over samples of speakers, and the choice of the most stable algorithm."""

import logging

import numpy as np
import pytest
from made_speakers import make_speakers
from synthetic_embeddings import make_embeddings

from hf_components.moe.clustering import ClusteringArguments, choice, cluster
from hf_components.moe.clustering.algorithms import find_clusters
from hf_components.moe.clustering.stability import MOST_POINTS, SAMPLES, SAMPLES_OF_MANY, measure_stability
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def measure(points, labels, find, speakers=None, utterances=None) -> dict:
    speakers = np.arange(len(points)) if speakers is None else speakers
    utterances = np.ones(len(points), int) if utterances is None else utterances
    return measure_stability(points, labels, speakers, utterances, 2, 0, find)


def test_one_for_the_same_clusters_and_about_nothing_for_random_ones():
    points = np.random.default_rng(0).normal(size=(300, 2))
    labels = (points[:, 0] > 0).astype(int)
    same = measure(points, labels, lambda some: ((some[:, 0] < 0).astype(int), None, {}))
    assert same["adjusted_rand"] == 1 and same["samples"] == SAMPLES
    assert same["speakers"] == pytest.approx(0.632 * 300, rel=0.05)
    random = np.random.default_rng(1)
    other = measure(points, labels, lambda some: (random.integers(2, size=len(some)), None, {}))
    assert abs(other["adjusted_rand"]) < 0.05


def test_speakers_are_drawn_whole_and_once():
    points = np.repeat(np.arange(20.0), 5)[:, None]
    speakers = np.repeat(np.arange(20), 5)
    seen = []

    def find(some):
        seen.append(np.unique(some, return_counts=True)[1])
        return (some[:, 0] > 9).astype(int), None, {}

    found = measure(points, (points[:, 0] > 9).astype(int), find, speakers)
    assert all((counts == 5).all() for counts in seen) and len(seen) == SAMPLES
    assert found["adjusted_rand"] == 1 and found["points"] == 5 * found["speakers"]


def test_an_item_counts_with_all_its_utterances():
    points = np.arange(8.0)[:, None]
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    moved = labels.copy()
    moved[3] = 1

    def find(some):
        return moved[some[:, 0].astype(int)], None, {}

    equal = measure(points, labels, find)["adjusted_rand"]
    heavy = measure(points, labels, find, utterances=np.array([1, 1, 1, 50, 1, 1, 1, 1]))["adjusted_rand"]
    assert heavy < equal < 1


def test_a_sample_without_clusters_counts_nothing_and_too_few_speakers_have_no_figure():
    def find(some):
        raise UserError("no clusters")

    points = np.zeros((30, 2))
    assert measure(points, np.arange(30) % 2, find)["adjusted_rand"] == 0
    one = measure(points, np.arange(30) % 2, find, speakers=np.zeros(30, int))
    assert one["adjusted_rand"] == 0  # all points each time
    assert measure(points[:2], np.arange(2), find) == {
        "adjusted_rand": None,
        "samples": 0,
        "speakers": 0,
        "points": 0,
    }


def test_many_points_are_cut_to_what_is_affordable():
    points = np.random.default_rng(0).normal(size=(20_000, 2))
    sizes = []

    def find(some):
        sizes.append(len(some))
        return (some[:, 0] > 0).astype(int), None, {}

    found = measure(points, (points[:, 0] > 0).astype(int), find, speakers=np.arange(20_000) // 10)
    assert found["samples"] == len(sizes) == SAMPLES_OF_MANY and set(sizes) == {MOST_POINTS}


@pytest.mark.parametrize("algorithm", ["kmeans", "ward", "gmm", "spectral"])
def test_clusters_are_numbered_by_size_and_too_few_distinct_ones_are_told(algorithm):
    points = np.random.default_rng(0).normal(size=(60, 3)) * 0.05
    points[:10, 0] += 1
    points[10:30, 1] += 1
    points[30:, 2] += 1
    args = ClusteringArguments(algorithm=algorithm, num_experts=3)
    labels, memberships, _ = find_clusters(points, 1, args)
    assert labels.tolist() == [2] * 10 + [1] * 20 + [0] * 30 and memberships is None


def test_ward_says_what_its_memory_allows(monkeypatch):
    monkeypatch.setattr("hf_components.moe.clustering.partition.WARD_UP_TO", 100)
    with pytest.raises(UserError, match="takes at most 100 points, got 192: .* use --algorithm kmeans"):
        cluster(make_embeddings(), ClusteringArguments(algorithm="ward", cluster_by="utterance"))


def test_auto_takes_the_most_stable_and_reports_all(caplog):
    embeddings = make_speakers(8)
    with caplog.at_level(logging.INFO):
        result = cluster(embeddings, ClusteringArguments(algorithm="auto"))
    rows = result.summary["candidates"]
    assert [(row["algorithm"], row["cluster_by"]) for row in rows] == [
        (algorithm, way) for way in ("speaker", "utterance") for algorithm in choice.SIMPLEST_FIRST
    ]
    taken = next(
        row
        for row in rows
        if (row["algorithm"], row["cluster_by"]) == (result.summary["algorithm"], result.summary["cluster_by"])
    )
    allowed = [row for row in rows if row["refused"] is None]
    assert taken in allowed
    assert round(taken["stability"], 2) == max(round(row["stability"], 2) for row in allowed)
    assert result.summary["agreement_nmi"]["group"] > 0.9
    assert f"--algorithm auto takes {taken['algorithm']} by {taken['cluster_by']}" in caplog.text
    assert "HDBSCAN" not in caplog.text  # what is only tried is not warned of
    assert "candidates" not in cluster(embeddings, ClusteringArguments()).summary


def test_auto_breaks_ties_by_simplicity():
    summary = cluster(make_embeddings(spread=0.1), ClusteringArguments(algorithm="auto")).summary
    assert (summary["algorithm"], summary["cluster_by"]) == ("kmeans", "speaker")
    given = cluster(make_embeddings(spread=0.1), ClusteringArguments(algorithm="auto", cluster_by="utterance")).summary
    assert {row["cluster_by"] for row in given["candidates"]} == {"utterance"}


def test_auto_refuses_a_speaker_apart_however_stable(caplog):
    embeddings = make_speakers(8, speaker=0.3)
    far = embeddings.speakers == "speaker 0"
    embeddings.vectors[far] += 30  # by itself it is found in every sample that has it
    result = cluster(embeddings, ClusteringArguments(algorithm="auto", cluster_by="utterance", reduce="none"))
    refused = [row["refused"] for row in result.summary["candidates"]]
    assert "a cluster of a single speaker" in refused
    if any(reason is None for reason in refused):
        assert min(result.summary["speakers_per_cluster"]) > 1
    else:
        assert "no algorithm finds clusters of people; --algorithm auto takes the most stable" in caplog.text


def test_degenerate_clusters():
    people = {"num_experts": 2, "sizes": [50, 50], "speakers_per_cluster": [5, 5]}
    assert choice._degenerate(people, 2) is None
    assert choice._degenerate(people, 3) == "2 clusters instead of 3"
    assert choice._degenerate({**people, "speakers_per_cluster": [9, 1]}, 2) == "a cluster of a single speaker"
    assert choice._degenerate({**people, "sizes": [99, 1]}, 2) == "a cluster of 1 utterances"
    assert choice._degenerate({**people, "speakers_per_cluster": [0, 0]}, 2) is None  # nobody is known


def test_without_any_clusters_auto_says_so():
    with pytest.raises(
        UserError, match="no algorithm finds clusters; kmeans: the split train must have more utterances"
    ):
        cluster(make_embeddings(utterances=24), ClusteringArguments(algorithm="auto", num_experts=30))
