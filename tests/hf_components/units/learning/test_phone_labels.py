"""Phones with times become labels of frames."""

import json

import numpy as np
import pytest

from hf_components.runtime.errors import UserError
from hf_components.units.learning.phone_labels import read_phone_labels
from hf_components.units.motifs.annotations import Interval, write_textgrid

pytestmark = pytest.mark.unit

PHONES = [(0.0, 0.05, "a"), (0.05, 0.1, "b"), (0.2, 0.3, "a")]


def as_json_lines(folder, phones):
    file = folder / "phones.jsonl"
    file.write_text(
        "".join(
            json.dumps({"source_file": "x/a.mp3", "start": start, "end": end, "phone": phone}) + "\n"
            for start, end, phone in phones
        )
    )
    return file


def as_textgrids(folder, phones):
    (folder / "x").mkdir()
    write_textgrid(folder / "x" / "a.TextGrid", {"words": [], "phones": [Interval(*phone) for phone in phones]}, 1.0)
    return folder


@pytest.mark.parametrize("write", [as_json_lines, as_textgrids])
def test_frames_get_the_phone_in_the_middle_of_what_they_hear(tmp_path, write):
    labels = read_phone_labels(write(tmp_path, PHONES), "phones")
    assert list(labels) == ["x/a"]
    # Middles at 12.5, 32.5, 52.5 ... ms
    assert labels["x/a"].of_frames(0.0, 6).tolist() == ["a", "a", "b", "b", "b", ""]
    assert labels["x/a"].of_frames(0.18, 3).tolist() == ["", "a", "a"]
    assert labels["x/a"].of_frames(0.3, 2).tolist() == ["", ""]
    assert labels["x/a"].of_frames(0.0, 0).tolist() == []


def test_before_the_first_phone_there_is_none(tmp_path):
    labels = read_phone_labels(as_json_lines(tmp_path, PHONES[1:]), "phones")
    assert labels["x/a"].of_frames(0.0, 3).tolist() == ["", "", "b"]


def test_order_of_the_lines_does_not_matter(tmp_path):
    labels = read_phone_labels(as_json_lines(tmp_path, PHONES[::-1]), "phones")["x/a"]
    assert np.array_equal(labels.starts, [0.0, 0.05, 0.2])


@pytest.mark.parametrize(
    ("phones", "message"),
    [
        (
            [(0, 0.2, "a"), (0.1, 0.3, "b")],
            "phones must be longer than 0 s and must not overlap, but a is from 0 to 0.2 s",
        ),
        ([(0.2, 0.2, "a")], "a is from 0.2 to 0.2 s"),
        ([(0, "soon", "a")], "line 1: a phone needs source_file, start and end"),
        ([], "holds no phones"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path, phones, message):
    with pytest.raises(UserError, match=message):
        read_phone_labels(as_json_lines(tmp_path, phones), "phones")


def test_a_missing_field_is_named(tmp_path):
    (tmp_path / "phones.jsonl").write_text('{"source_file": "a.mp3", "start": 0, "end": 1}\n')
    with pytest.raises(UserError, match=r"phones.jsonl, line 1: a phone needs"):
        read_phone_labels(tmp_path / "phones.jsonl", "phones")


def test_a_missing_tier_is_named(tmp_path):
    with pytest.raises(UserError, match="a.TextGrid has no tier 'segments'; it has words, phones: give --phone_tier"):
        read_phone_labels(as_textgrids(tmp_path, PHONES), "segments")


def test_a_file_that_is_no_textgrid_is_named(tmp_path):
    (tmp_path / "a.TextGrid").write_text("hello")
    with pytest.raises(UserError, match="a.TextGrid cannot be read as a TextGrid"):
        read_phone_labels(tmp_path, "phones")
