"""Clusters of people on made corpora where speakers differ more than groups do: not of speakers, not of clips."""

import logging

import numpy as np
import pytest
from made_speakers import make_speakers
from sklearn.metrics import normalized_mutual_info_score

from hf_components.moe.clustering import ClusteringArguments, cluster, spectral
from hf_components.moe.clustering.items import choose_items, make_items, number_speakers, utterances_per_speaker
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def agreement(embeddings, result, split: str) -> float:
    rows = embeddings.splits == split
    return normalized_mutual_info_score(embeddings.groups[rows], result.labels[rows])


@pytest.mark.parametrize("algorithm", ["kmeans", "gmm", "spectral"])
@pytest.mark.parametrize("utterances", [8, 16, 100])
def test_speakers_of_a_group_are_found(utterances, algorithm):
    embeddings = make_speakers(utterances)
    result = cluster(embeddings, ClusteringArguments(algorithm=algorithm, cluster_by="speaker"))
    assert agreement(embeddings, result, "train") > 0.9 and agreement(embeddings, result, "dev") > 0.9
    assert result.summary["cluster_by"] == "speaker" and min(result.summary["speakers_per_cluster"]) > 5
    assert result.summary["stability"]["adjusted_rand"] > 0.7
    for number in np.unique(number_speakers(embeddings.speakers)):
        rows = number_speakers(embeddings.speakers) == number
        assert (result.weights[rows] == result.weights[rows][0]).all()
        assert len(set(result.labels[rows])) == 1


@pytest.mark.parametrize(
    ("utterances", "made"),
    [(8, {}), (16, {}), (100, {"clip": 1.0, "speaker": 1.5, "duration": 4.0, "seed": 1})],
)
def test_spectral_neighbours_reach_other_speakers(utterances, made, monkeypatch):
    """With ten neighbours, whatever the number of utterances per speaker, speakers fall apart."""
    embeddings = make_speakers(utterances, held_out=1, **made)
    args = ClusteringArguments(algorithm="spectral", cluster_by="utterance", remove_duration=False)
    monkeypatch.setattr("hf_components.moe.clustering.assignment.measure_stability", lambda *_: None)
    found = cluster(embeddings, args)
    assert agreement(embeddings, found, "train") > 0.9
    assert found.summary["parameters"]["neighbors"] == 3 * utterances
    monkeypatch.setattr(spectral, "NEIGHBORS_PER_OWN", 0)
    before = cluster(embeddings, args)
    assert agreement(embeddings, before, "train") < agreement(embeddings, found, "train") - 0.03


def test_what_follows_the_duration_is_removed():
    embeddings = make_speakers(16, duration=40.0, held_out=1)
    args = {"algorithm": "kmeans", "cluster_by": "utterance", "reduce": "none"}
    # A single direction is one of 64 after standardising; here all clips lie along it in many dimensions.
    kept = cluster(embeddings, ClusteringArguments(**args, remove_duration=False))
    removed = cluster(embeddings, ClusteringArguments(**args))
    assert kept.summary["agreement_nmi"]["duration_quartile"] > 0.3
    assert removed.summary["agreement_nmi"]["duration_quartile"] < 0.05
    assert agreement(embeddings, removed, "train") > 0.9


def test_unknown_speakers_stand_for_themselves():
    embeddings = make_speakers(8)
    train = embeddings.splits == "train"
    rows = np.flatnonzero(train)[:40]
    reference = cluster(embeddings, ClusteringArguments(cluster_by="speaker"))
    embeddings.speakers[rows] = "unknown"
    result = cluster(embeddings, ClusteringArguments())
    assert result.summary["cluster_by"] == "speaker" and sum(result.summary["speakers_per_cluster"]) == 35
    assert normalized_mutual_info_score(embeddings.groups[rows], result.labels[rows]) > 0.9
    assert not (result.weights[rows] == result.weights[rows][0]).all()
    assert normalized_mutual_info_score(reference.labels, result.labels) > 0.8
    items = make_items(embeddings.vectors, embeddings, "speaker")
    assert items.fit.sum() == 35 and len(items.points) == 35 + 40 + 16
    embeddings.speakers[:] = "unknown"
    assert cluster(embeddings, ClusteringArguments()).summary["cluster_by"] == "utterance"
    with pytest.raises(
        UserError, match="more known speakers than experts, got 0 for 4; .* use --cluster_by utterance"
    ):
        cluster(embeddings, ClusteringArguments(cluster_by="speaker"))


def test_by_speaker_where_there_are_enough(caplog):
    embeddings = make_speakers(4, speakers=3, held_out=1)
    assert choose_items(embeddings, 4) == "speaker" and not caplog.records
    with caplog.at_level(logging.INFO):
        assert choose_items(embeddings, 5) == "utterance"
    assert "has 12 known speakers with 100 % of its utterances; clusters of speakers need 15" in caplog.text
    train = np.flatnonzero(embeddings.splits == "train")
    embeddings.speakers[train[: len(train) // 2 + 1]] = "unknown"
    assert choose_items(embeddings, 2) == "utterance"  # half of the utterances would have no say


def test_a_speaker_of_train_keeps_the_label_elsewhere():
    embeddings = make_speakers(8)
    train = np.flatnonzero(embeddings.splits == "train")
    moved = train[embeddings.speakers[train] == "speaker 3"][:2]
    embeddings.splits[moved] = "dev"
    embeddings.vectors[moved] *= -5
    result = cluster(embeddings, ClusteringArguments())
    rows = embeddings.speakers == "speaker 3"
    assert len(set(result.labels[rows])) == 1
    embeddings.vectors[moved] *= 3
    np.testing.assert_array_equal(cluster(embeddings, ClusteringArguments()).weights[rows], result.weights[rows])


def test_utterances_per_speaker_is_that_of_the_median_utterance():
    embeddings = make_speakers(6, speakers=2, held_out=1)
    items = make_items(embeddings.vectors, embeddings, "utterance")
    assert utterances_per_speaker(items, embeddings.speakers) == 6
    embeddings.speakers[embeddings.speakers == "speaker 1"] = "unknown"
    assert utterances_per_speaker(items, embeddings.speakers) == 6
    embeddings.speakers[:] = "unknown"
    assert utterances_per_speaker(items, embeddings.speakers) == 1
