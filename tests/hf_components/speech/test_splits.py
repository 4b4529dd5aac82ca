import json
import logging
import random
from collections import Counter

import pytest

from hf_components.runtime.errors import UserError
from hf_components.speech.sampling import sample
from hf_components.speech.splits import hold_out, read_split, report_split, split_recordings, split_speakers

pytestmark = pytest.mark.unit


def corpus(children: int = 60, seed: int = 0) -> tuple[list[str], list[str]]:
    """Speaker and stratum of each row; a child has 1 to 20 rows, and three strata share the children unequally."""
    generator = random.Random(seed)
    rows = [
        (f"c{child}", ("3-4", "5-7", "5-7", "8-11")[child % 4])
        for child in range(children)
        for _ in range(generator.randint(1, 20))
    ]
    return [speaker for speaker, _ in rows], [stratum for _, stratum in rows]


@pytest.mark.parametrize("val_ratio", [0.1, 0.3, 0.5])
def test_every_stratum_has_its_share(val_ratio):
    speakers, strata = corpus()
    sides = split_speakers(speakers, strata, val_ratio, seed=1)
    assert set(sides) == set(speakers)
    report = report_split(speakers, strata, sides, val_ratio)
    assert [row["stratum"] for row in report] == ["3-4", "5-7", "8-11", "all"]
    assert all(abs(row["deviation"]) < 0.03 for row in report)
    for row in report:  # counted here in another way
        of = [s for s, stratum in zip(speakers, strata, strict=True) if row["stratum"] in ("all", stratum)]
        assert row["dev_rows"] == sum(sides[s] == "dev" for s in of)
        assert row["train_rows"] + row["dev_rows"] == len(of)
        assert row["dev_speakers"] == len({s for s in of if sides[s] == "dev"})
        assert row["dev_share"] == pytest.approx(row["dev_rows"] / len(of), abs=1e-4)
        assert row["deviation"] == pytest.approx(row["dev_share"] - val_ratio, abs=1e-4)


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    speakers, strata = corpus()
    shuffled = list(zip(speakers, strata, strict=True))
    random.Random(5).shuffle(shuffled)
    first = split_speakers(speakers, strata, 0.2, seed=1)
    assert first == split_speakers(*map(list, zip(*shuffled, strict=True)), 0.2, seed=1)
    others = [split_speakers(speakers, strata, 0.2, seed) for seed in range(2, 6)]
    assert all(other != first for other in others)


def test_a_stratum_with_one_child_stays_in_train_with_a_warning(caplog):
    speakers, strata = ["a"] * 3 + ["b"] * 3 + ["alone"] * 9, ["5-7"] * 6 + ["12+"] * 9
    with caplog.at_level(logging.WARNING):
        sides = split_speakers(speakers, strata, 0.5, seed=0)
    assert sides["alone"] == "train" and sorted(Counter(sides.values()).items()) == [("dev", 1), ("train", 2)]
    assert "12+ has one speaker, alone, who stays in train" in caplog.text and "5-7" not in caplog.text


@pytest.mark.parametrize("val_ratio, in_dev", [(0.01, ["few"]), (0.99, ["few", "many"])])
def test_of_several_children_one_at_least_is_on_either_side(val_ratio, in_dev, caplog):
    speakers = ["few"] + ["many"] * 4 + ["most"] * 9
    strata = ["5-7"] * len(speakers)
    sides = split_speakers(speakers, strata, val_ratio, seed=0)
    dev = {name for name, side in sides.items() if side == "dev"}
    assert 0 < len(dev) < 3
    if val_ratio < 0.5:
        assert dev == set(in_dev)
    else:
        assert len(dev) == 2
    report_split(speakers, strata, sides, 0.5)
    assert "cannot be divided better" in caplog.text


def test_a_child_of_two_strata_is_on_one_side():
    speakers = ["old"] * 5 + ["young"] * 5 + ["grown"] * 3
    strata = ["12+"] * 5 + ["5-7"] * 5 + ["5-7"] + ["12+"] * 2
    sides = split_speakers(speakers, strata, 0.4, seed=0)
    assert Counter(sides.values())["dev"] == 1 and sides["young"] == "train"  # 12+ has old and grown, 5-7 young alone


def test_no_share_no_dev():
    assert set(split_speakers(*corpus(), 0.0, seed=0).values()) == {"train"}
    assert split_speakers([], [], 0.1, seed=0) == {} and report_split([], [], {}, 0.1) == []


def test_one_stratum_called_all_is_counted_once():
    (row,) = report_split(["a", "b"], ["all", "all"], {"a": "train", "b": "dev"}, 0.5)
    assert (row["train_rows"], row["dev_rows"]) == (1, 1)


@pytest.mark.parametrize("val_ratio", [-0.1, 1.0, float("nan")])
def test_share_out_of_range(val_ratio):
    with pytest.raises(UserError, match=r"val_ratio must lie in \[0, 1\)"):
        split_speakers(["a"], ["x"], val_ratio, seed=0)


def test_recorded_split(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"seed": 1, "speakers": {"train": ["a", "b"], "dev": ["c"]}}))
    assert read_split(path) == ("speaker", {"a": "train", "b": "train", "c": "dev"})
    path.write_text(json.dumps({"speakers": {"train": ["a", "b"], "dev": ["b"]}}))
    with pytest.raises(UserError, match="names b more than once; a speaker must be on one side only; a split of the"):
        read_split(path)
    narrator = {"speakers": {"train": ["n"], "dev": ["n"]}, "recordings": {"train": ["1", "2"], "dev": ["3"]}}
    path.write_text(json.dumps({"split_by": "recording", **narrator}))
    assert read_split(path) == ("recording", {"1": "train", "2": "train", "3": "dev"})
    path.write_text(
        json.dumps({"speakers": {"train": [5, "cafe\u0301 "], "dev": ["6"]}})
    )  # as manifests may have them
    assert read_split(path) == ("speaker", {"5": "train", "caf\u00e9": "train", "6": "dev"})
    for content in (
        "{",
        '{"speakers": {"train": ["a"], "dev": ["b"], "train": ["c"]}}',
        "[]",
        '{"speakers": {"train": ["a"]}}',
        '{"speakers": {"train": 3, "dev": []}}',
        '{"speakers": {"train": [["a"]], "dev": []}}',
    ):
        path.write_text(content)
        with pytest.raises(UserError, match="not a split like splits.json"):
            read_split(path)
    with pytest.raises(UserError, match="cannot read the split"):
        read_split(tmp_path / "absent.json")


def test_unknown_speakers_are_not_held_out(caplog):
    speakers = ["unknown"] * 6 + ["a"] * 2 + ["b"] * 2
    for seed in range(5):
        sides = split_speakers(speakers, ["x"] * 10, 0.6, seed)
        assert sides["unknown"] == "train" and "dev" in sides.values()
    (row,) = report_split(speakers, ["all"] * 10, sides)
    assert row["train_speakers"] + row["dev_speakers"] == 2
    assert split_speakers(["unknown"] * 3, ["x"] * 3, 0.3, 0) == {"unknown": "train"}
    assert "the stratum x stays in train, not in dev: its speakers are unknown" in caplog.text


@pytest.mark.parametrize("seed", range(5))
def test_recordings_are_held_out_of_every_speaker_alike(seed):
    recordings = [f"{speaker}{i}" for speaker, count in (("a", 20), ("b", 10), ("c", 1)) for i in range(count)]
    speakers = [name[0] for name in recordings]
    sides = split_recordings(recordings, speakers, 0.2, seed)
    assert Counter(name[0] for name, side in sides.items() if side == "dev") == {"a": 4, "b": 2}
    backwards = split_recordings(recordings[::-1], speakers[::-1], 0.2, seed)
    assert sides == backwards and list(sides) == sorted(sides)
    assert split_recordings(["x", "y"], ["a", "b"], 0.5, seed) is None
    small = split_recordings(["x"] * 90 + ["y"] * 10, ["a"] * 100, 0.01, seed)
    assert small == {"x": "train", "y": "dev"}


def test_what_belongs_together_is_held_out_together():
    ids = [f"{stratum}/{i}" for stratum in ("clean", "noisy") for i in range(20)]
    strata = [name.partition("/")[0] for name in ids]
    apart = hold_out(ids, strata, 0.3, 1, ids, ids)
    assert apart == set(sample(ids, strata, "stratified", 30, seed=1)) and len(apart) == 12
    names = [name.partition("/")[2] for name in ids]
    paired = hold_out(ids, strata, 0.3, 1, names)
    assert len(paired) == 12 and {names[i] for i in paired}.isdisjoint(names[i] for i in set(range(40)) - paired)
    assert hold_out(ids, strata, 0.3, 2, names) != paired
    sounds = [str(i) for i in range(40)]
    sounds[3] = sounds[4]  # and 3 belongs to 23, 4 to 24
    for seed in range(20):
        assert len(hold_out(ids, strata, 0.3, seed, names, sounds) & {3, 4, 23, 24}) in (0, 4)
