"""Speakers move to the expert with the lowest loss: who moves, who stays, and what is reported."""

import numpy as np
import pytest

from hf_components.moe.clustering import Embeddings, reassign
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def losses_of(means: list[list[float]], speakers: list[str], splits: list[str], tokens: int = 10) -> Embeddings:
    """One row per utterance: the mean loss per token under each expert."""
    count = len(speakers)
    means = np.array(means)
    return Embeddings(
        ids=np.array([f"u{number}" for number in range(count)]),
        splits=np.array(splits),
        speakers=np.array(speakers),
        groups=np.array([name[0] for name in speakers]),
        durations=np.linspace(1, 2, count),
        vectors=np.concatenate([means * tokens, np.full((count, 1), tokens)], axis=1).astype(np.float32),
        source={},
    )


SPEAKERS = ["a1", "a1", "a2", "a2", "b1", "b1", "b2", "b2", "a3", "b3"]
SPLITS = ["train"] * 8 + ["dev"] * 2
MEANS = [[1.0, 2.0]] * 4 + [[2.0, 1.0]] * 4 + [[1.0, 2.0], [2.0, 1.0]]


def test_a_speaker_who_was_put_wrongly_moves_with_all_utterances():
    means = [list(row) for row in MEANS]
    means[3] = [1.6, 1.5]  # one clip of a2 says otherwise; the speaker counts
    found = reassign(losses_of(means, SPEAKERS, SPLITS), np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1]), 0.3)
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 1]
    moves = found.summary["reassigned"]
    assert (moves["moved"], moves["speakers"], moves["from_to"]) == (1, 4, [[1, 0], [1, 2]])
    assert 0 < moves["adjusted_rand"] < 1 and moves["loss_after"] < moves["loss_before"]
    assert moves["lost_all"] == []
    assert found.summary["agreement_nmi"]["group"] == pytest.approx(1)
    assert (found.weights.argmax(1) == found.labels).all()
    assert found.summary["mean_entropy"] == pytest.approx(0.3, abs=0.01)
    np.testing.assert_allclose(found.weights[2], found.weights[3])


def test_tokens_count_and_not_utterances():
    rows = losses_of([[1.0, 2.0], [3.0, 1.0], [2.0, 1.0]], ["a", "a", "b"], ["train"] * 3)
    rows.vectors[1] *= 0.1  # one token of three
    rows.vectors[0] *= 3
    found = reassign(rows, np.array([1, 1, 1]), 0.3)
    assert found.labels.tolist() == [0, 0, 1]


def test_who_does_not_move_has_an_index_of_one():
    found = reassign(losses_of(MEANS, SPEAKERS, SPLITS), np.array([0] * 4 + [1] * 4 + [0, 1]), 0.3)
    assert (found.summary["reassigned"]["moved"], found.summary["reassigned"]["adjusted_rand"]) == (0, 1.0)


def test_an_expert_that_loses_everybody_is_reported_and_keeps_one(caplog):
    means = [[1.0, 2.0]] * 4 + [[1.0, 1.1]] * 2 + [[1.0, 1.5]] * 4
    found = reassign(losses_of(means, SPEAKERS, SPLITS), np.array([0] * 4 + [1] * 6), 0.3)
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert (
        found.summary["reassigned"]["lost_all"] == [1] and "expert 1 has the lowest loss on no speaker" in caplog.text
    )
    assert (found.weights.argmax(1) == found.labels).all()


def test_utterances_of_unknown_speakers_move_alone():
    speakers = ["unknown"] * 4
    found = reassign(losses_of([[1, 2], [2, 1], [1, 2], [2, 1]], speakers, ["train"] * 4), np.zeros(4, int), 0.3)
    assert found.labels.tolist() == [0, 1, 0, 1] and found.summary["reassigned"]["speakers"] == 4


def test_without_train_or_with_too_few_speakers_it_says_so():
    with pytest.raises(UserError, match="speakers of the split train are reassigned, but the corpus has none"):
        reassign(losses_of([[1, 2]], ["a"], ["dev"]), np.zeros(1, int), 0.3)
    with pytest.raises(UserError, match="1 speakers cannot be divided among 2 experts; lower --num_experts"):
        reassign(losses_of([[1, 2]], ["a"], ["train"]), np.zeros(1, int), 0.3)
