"""Which recordings go to dev: by speaker where enough are known, else by recording; copies stay together."""

import pytest

from dataset_scripts.recording_division import Recording, divide, record_of, require_known_speakers
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def recordings(size: int = 10, **counts: int) -> list[Recording]:
    """So many recordings of each speaker."""
    return [Recording(f"{name}/{i}", name, size) for name, count in counts.items() for i in range(count)]


def dev_of(listed, copies=(), ratio=0.1, split_by=None, seed=42):
    division = divide(listed, copies, ratio, seed, split_by)
    sides = division.sides or []
    return division, [one for one, side in zip(listed, sides, strict=False) if side == "dev"]


def test_speakers_are_held_out_where_there_are_enough():
    listed = recordings(**{f"s{i}": 3 for i in range(10)})
    division, dev = dev_of(listed)
    assert division.split_by == "speaker" and not division.why
    assert len(dev) == 3 and len({one.speaker for one in dev}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_two_speakers_do_not_cost_half_the_corpus(seed, caplog):
    listed = recordings(ada=30, ben=30)
    division, dev = dev_of(listed, seed=seed)
    assert division.split_by == "recording" and len(dev) == 6
    assert [sum(one.speaker == name for one in dev) for name in ("ada", "ben")] == [3, 3]
    record = record_of(listed, division, 0.1, seed, last_part=False)
    assert record["speakers"] == {"train": ["ada", "ben"], "dev": ["ada", "ben"]}
    assert record["strata"][0]["dev_recordings"] == 6 and record["held_out"].endswith("the same speakers as in train")
    assert "dev is held-out recordings of the same speakers as in train (of the speakers, at best 0.50" in caplog.text


def test_speakers_who_are_asked_for_are_held_out_at_any_cost():
    division, dev = dev_of(recordings(ada=30, ben=30), split_by="speaker")
    assert division.split_by == "speaker" and len(dev) == 30
    division, dev = dev_of(recordings(**{f"s{i}": 3 for i in range(10)}), split_by="recording")
    assert division.split_by == "recording" and len(dev) == 3 and len({one.speaker for one in dev}) == 3


def test_a_speaker_with_most_of_the_recordings_stays_in_train():
    division, dev = dev_of(recordings(ada=18, ben=1, carl=1))
    assert division.split_by == "speaker" and {one.speaker for one in dev} <= {"ben", "carl"} and dev


def test_no_speaker_loses_the_only_recording():
    division, dev = dev_of(recordings(ada=5, ben=1, carl=1), split_by="recording", ratio=0.4)
    assert {one.speaker for one in dev} == {"ada"} and len(dev) == 3
    assert dev_of(recordings(ada=1, ben=1))[0].sides is None
    assert dev_of(recordings(unknown=1))[0].sides is None


def test_unknown_speakers_stay_in_train_where_speakers_are_held_out():
    listed = recordings(**{f"s{i}": 3 for i in range(10)}, unknown=20)
    division, dev = dev_of(listed)
    assert division.split_by == "speaker" and dev and all(one.speaker != "unknown" for one in dev)
    record = record_of(listed, division, 0.1, 42, last_part=False)
    assert "others in train are unknown" in record["held_out"] and "unknown" not in sum(
        record["speakers"].values(), []
    )
    assert record["strata"][0]["train_speakers"] + record["strata"][0]["dev_speakers"] == 10


@pytest.mark.parametrize("seed", range(10))
def test_copies_are_on_one_side(seed):
    listed = recordings(unknown=12)
    pairs = [(i, i + 6) for i in range(6)]
    _, dev = dev_of(listed, pairs, ratio=0.3, seed=seed)
    names = {one.name for one in dev}
    assert len(names) == 4 and all((listed[i].name in names) == (listed[j].name in names) for i, j in pairs)
    listed = recordings(ada=2, ben=2, carl=2, dora=2)
    _, dev = dev_of(listed, [(1, 2)], ratio=0.25, split_by="speaker", seed=seed)
    assert {one.speaker for one in dev} in ({"ada", "ben"}, {"carl"}, {"dora"})


def test_copies_that_tie_all_speakers_are_named():
    listed = recordings(ada=2, ben=2)
    division, dev = dev_of(listed, [(1, 2)])
    assert division.split_by == "recording" and "copies" in division.why and len(dev) == 1
    assert dev_of(listed, [(1, 2)], split_by="speaker")[0].sides is None


def test_speakers_must_be_known_to_be_held_out():
    require_known_speakers(["ada", "ben", "unknown"], "x")
    for speakers in (["unknown"] * 5, ["ada", "ada"]):
        with pytest.raises(UserError, match="fewer than two are known in x; make a folder for each speaker"):
            require_known_speakers(speakers, "x")
