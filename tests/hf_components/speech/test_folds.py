"""Other splits of a prepared corpus: folds over all speakers, and speakers to choose a system on."""

import json
from collections import Counter

import pytest
from datasets import Dataset, DatasetDict

from hf_components.runtime import UserError
from hf_components.speech.folds import SELECTION, divide, fold_of_each
from hf_components.speech.sampling import Sampling
from hf_components.speech.speakers import UNKNOWN

pytestmark = pytest.mark.unit

FOLDS = 4


def corpus() -> DatasetDict:
    """Two groups of 8 and 4 speakers, with 3 to 6 utterances each; every third speaker is in dev."""
    rows = {"train": [], "dev": [], "train_long": []}
    for number in range(12):
        for clip in range(3 + number % 4):
            row = {"id": f"{number}-{clip}", "speaker_id": f"s{number}", "group": "ab"[number % 3 == 0]}
            rows["dev" if number % 3 == 2 else "train"].append(row)
    rows["train"].append({"id": "nobody-0", "speaker_id": UNKNOWN, "group": "a"})
    rows["train_long"].append({"id": "long-0", "speaker_id": "s0", "group": "b"})
    return DatasetDict({name: Dataset.from_list(part) for name, part in rows.items()})


def test_each_utterance_is_held_out_once_and_no_speaker_is_divided():
    held_out = Counter()
    for fold in range(FOLDS):
        divided = divide(corpus(), Sampling(folds=FOLDS, fold=fold))
        assert divided.keys() == {"train", "dev"}
        assert not set(divided["train"]["speaker_id"]) & set(divided["dev"]["speaker_id"])
        assert set(divided["dev"]["group"]) == {"a", "b"}
        assert len(divided["train"]) + len(divided["dev"]) == 54 + 1
        assert "nobody-0" in divided["train"]["id"]
        held_out.update(divided["dev"]["id"])
    assert len(held_out) == 54 and set(held_out.values()) == {1}


def test_folds_depend_on_the_seed_and_not_on_the_order():
    rows = [(f"{number}-{clip}", f"s{number}", "ab"[number % 2]) for number in range(10) for clip in range(3)]
    one = dict(zip([row[0] for row in rows], fold_of_each(*zip(*rows, strict=True), FOLDS, 1), strict=True))
    turned = rows[::-1]
    again = dict(zip([row[0] for row in turned], fold_of_each(*zip(*turned, strict=True), FOLDS, 1), strict=True))
    assert one == again
    assert list(one.values()) != fold_of_each(*zip(*rows, strict=True), FOLDS, 2)


def test_selection_takes_whole_speakers_of_train():
    whole = corpus()
    divided = divide(whole, Sampling(selection=0.25))
    assert set(divided["train"]["speaker_id"]) | set(divided[SELECTION]["speaker_id"]) == set(
        whole["train"]["speaker_id"]
    )
    assert not set(divided["train"]["speaker_id"]) & set(divided[SELECTION]["speaker_id"])
    assert set(divided[SELECTION]["group"]) == {"a", "b"}
    assert divided["dev"]["id"] == whole["dev"]["id"]
    both = divide(whole, Sampling(folds=FOLDS, fold=1, selection=0.25))
    assert not set(both["dev"]["speaker_id"]) & {*both["train"]["speaker_id"], *both[SELECTION]["speaker_id"]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"folds": 5}, "folds and fold go together, got folds 5 and fold None"),
        ({"folds": 5, "fold": 5}, "fold must be one of at least 2 folds, counted from 0, got 5 of 5"),
        ({"folds": 1, "fold": 0}, "got 0 of 1"),
        ({"selection": 0.7}, "selection must lie in \\[0, 0.5\\], got 0.7"),
    ],
)
def test_impossible_divisions_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        Sampling.parse(json.dumps(override))


def test_more_folds_than_speakers_are_refused():
    with pytest.raises(UserError, match="20 folds need at least 20 speakers, got 12"):
        divide(corpus(), Sampling(folds=20, fold=0))
