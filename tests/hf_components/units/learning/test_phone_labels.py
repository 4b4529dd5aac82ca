"""Phones with times become labels of frames."""

import json

import numpy as np
import parselmouth
import pytest
from parselmouth import praat

from hf_components.runtime.errors import UserError
from hf_components.units.learning.phone_labels import read_phone_labels, recording_key
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
        ([(0, float("nan"), "a")], "line 1: a phone needs source_file, start and end"),
        ([(0, 80, "a"), (80, 150, "b")], "half of the phones are longer than 75; divide them by 1000"),
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


def textgrid(kind: str, items: list[tuple]) -> str:
    """A TextGrid as Praat writes it in the long format, with one tier."""
    fields = (
        '            xmin = {} \n            xmax = {} \n            text = "{}" \n'
        if kind == "IntervalTier"
        else '            number = {} \n            mark = "{}" \n'
    )
    what = "intervals" if kind == "IntervalTier" else "points"
    body = "".join(f"        {what} [{n}]:\n{fields.format(*item)}" for n, item in enumerate(items, 1))
    return (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 2 \ntiers? <exists> \nsize = 1 \n'
        f'item []: \n    item [1]:\n        class = "{kind}" \n        name = "phones" \n        xmin = 0 \n'
        f"        xmax = 2 \n        {what}: size = {len(items)} \n{body}"
    )


GOOD = textgrid("IntervalTier", [(0, 1, "a"), (1, 2, "\u0259")])


@pytest.mark.parametrize("empty", [[(0, 2, "")], []])
def test_an_empty_tier_means_no_phones(tmp_path, empty):
    (tmp_path / "a.TextGrid").write_text(GOOD, encoding="utf-8")
    (tmp_path / "b.TextGrid").write_text(textgrid("IntervalTier", empty))
    labels = read_phone_labels(tmp_path, "phones")
    assert {name: len(phones.names) for name, phones in labels.items()} == {"a": 2, "b": 0}
    assert labels["b"].of_frames(0.0, 3).tolist() == ["", "", ""]
    (tmp_path / "a.TextGrid").unlink()
    with pytest.raises(UserError, match="holds no phones"):
        read_phone_labels(tmp_path, "phones")


@pytest.mark.parametrize("name", ["a.textgrid", "a.TEXTGRID", "a.TextGrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_suffix_and_encoding_of_praat(tmp_path, name, encoding):
    (tmp_path / name).write_text(GOOD, encoding=encoding)
    assert read_phone_labels(tmp_path, "phones")["a"].names.tolist() == ["a", "\u0259"]


@pytest.mark.parametrize("form", ["short text", "text"])
def test_both_text_formats_of_praat(tmp_path, form):
    assert _in_praat(tmp_path, f"Save as {form} file")["a"].names.tolist() == ["a", "\u0259"]


@pytest.mark.parametrize("form", ["chronological text", "binary"])
def test_other_formats_of_praat_are_refused_with_the_remedy(tmp_path, form):
    with pytest.raises(UserError, match=f"is a {form.split()[0]} TextGrid, .*Save > Save as text file"):
        _in_praat(tmp_path, f"Save as {form} file")


def _in_praat(folder, command):
    (folder / "a.TextGrid").write_text(GOOD, encoding="utf-8")
    praat.call(parselmouth.read(str(folder / "a.TextGrid")), command, str(folder / "a.TextGrid"))
    return read_phone_labels(folder, "phones")


@pytest.mark.parametrize(
    "content, message",
    [
        (textgrid("TextTier", [(1, "x")]).encode(), "'phones' is a point tier, .*--phone_tier"),
        (textgrid("TextTier", []).encode(), "point tier"),
        (GOOD.replace("\u0259", "\u00e9").encode("latin-1"), "neither UTF-8 nor UTF-16 text"),
        (b"", "is empty"),
        (GOOD[:250].encode(), "cannot be read as a TextGrid of intervals"),
        (GOOD.replace("xmax = 1", "xmax = 1,5").encode(), "cannot be read as a TextGrid of intervals"),
        (GOOD.replace("xmax = 1", "xmax = 0").encode(), "cannot be read as a TextGrid of intervals|longer than 0 s"),
        (b'<?xml version="1.0"?><ANNOTATION_DOCUMENT>', "is a file of ELAN"),
        (b'File type = "ooTextFile"\nObject class = "PitchTier"\n\n0\n1\n', "a.TextGrid"),
    ],
)
def test_what_is_no_interval_tier_is_refused_in_words(tmp_path, content, message):
    (tmp_path / "a.TextGrid").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_phone_labels(tmp_path, "phones")


def test_two_textgrids_of_one_recording_and_a_link_to_nothing(tmp_path):
    (tmp_path / "a.TextGrid").write_text(GOOD, encoding="utf-8")
    (tmp_path / "a.textgrid").write_text(GOOD, encoding="utf-8")
    with pytest.raises(UserError, match="are of one recording; remove one"):
        read_phone_labels(tmp_path, "phones")
    (tmp_path / "a.textgrid").unlink()
    (tmp_path / "b.TextGrid").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"b.TextGrid cannot be read: b.TextGrid is a link to nowhere"):
        read_phone_labels(tmp_path, "phones")


def test_labels_belong_to_a_recording_in_every_spelling():
    assert recording_key("x/cafe\u0301.wav") == recording_key("x\\caf\u00e9.mp3") == "x/caf\u00e9"


def test_a_file_that_is_no_textgrid_is_named(tmp_path):
    (tmp_path / "a.TextGrid").write_text("hello")
    with pytest.raises(UserError, match="a.TextGrid cannot be read as a TextGrid"):
        read_phone_labels(tmp_path, "phones")
