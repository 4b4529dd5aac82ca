"""Alignments in every format, and what is wrong with them."""

import re

import numpy as np
import pytest
from praatio.textgrid import IntervalTier, Textgrid
from pympi.Elan import Eaf

from hf_components.runtime.errors import UserError
from hf_components.units.evaluation.alignments import read_alignments

pytestmark = pytest.mark.unit
PHONES = [(0.0, 0.1, "sil"), (0.1, 0.2, "k"), (0.2, 0.4, "a")]
ROW = {"id": "x_0", "source_file": "speaker/x.mp3", "start": 0.1, "units": np.zeros(15)}


def textgrid(file, tiers):
    grid = Textgrid(0, 0.4)
    for name, phones in tiers.items():
        grid.addTier(IntervalTier(name, phones, 0, 0.4))
    file.parent.mkdir(parents=True, exist_ok=True)
    grid.save(str(file), format="long_textgrid", includeBlankSpaces=True)


def mfa(folder):
    textgrid(folder / "speaker" / "x.TextGrid", {"words": [(0.1, 0.4, "ka")], "phones": PHONES})


def mfa_of_two_speakers(folder):
    textgrid(folder / "speaker" / "x.TextGrid", {"A - phones": PHONES[:2], "B - phones": PHONES[2:]})


def elan(folder):
    document = Eaf()
    document.add_tier("phones")
    for start, end, label in PHONES:
        document.add_annotation("phones", round(1000 * start), round(1000 * end), label)
    (folder / "speaker").mkdir(parents=True)
    document.to_file(folder / "speaker" / "x.eaf")


def write(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def ctm(folder):
    write(folder / "phones.ctm", [";; comment", *(f"x 1 {a} {b - a:.3f} {label} 0.9" for a, b, label in PHONES)])


def ctm_of_segments(folder):
    write(folder / "phones.ctm", [f"x_0 1 {a - 0.1:.2f} {b - a:.2f} {label}" for a, b, label in PHONES[1:]])


def discophon(folder):
    rows = [f"x {a} {b} {label}" for a, b, label in PHONES]
    write(folder / "alignment" / "alignment-eng-test.txt", ["file onset offset phone", *rows])
    write(folder / "README.txt", ["no alignment"])


def json_lines(folder):
    form = '{{"source_file": "speaker/x.wav", "start": {}, "end": {}, "phone": "{}"}}'
    write(folder / "phones.jsonl", [form.format(*phone) for phone in PHONES])


EVERY = [mfa, mfa_of_two_speakers, elan, ctm, ctm_of_segments, discophon, json_lines]


@pytest.mark.parametrize("make", EVERY)
def test_every_format_gives_the_same_frames(tmp_path, make):
    make(tmp_path / "in")
    found = read_alignments(tmp_path / "in", "phones")
    assert found.rejected == []
    assert found.of_frames(ROW).tolist() == 5 * ["k"] + 10 * ["a"]
    assert found.of_frames({**ROW, "id": "y_0", "source_file": "y.mp3"}) is None


def test_rows_that_cannot_be_read_are_rejected_and_the_rest_is_used(tmp_path):
    mfa(tmp_path)
    write(tmp_path / "more.ctm", ["y 1 0 0.1 k", "y 1 soon 0.1 a", "y 1", "z 1 0 0.5 a", "z 1 0.2 0.5 a"])
    (tmp_path / "broken.TextGrid").write_text("no TextGrid")
    textgrid(tmp_path / "words.TextGrid", {"words": PHONES})
    elan(tmp_path / "again")
    (tmp_path / "again" / "speaker" / "x.eaf").rename(tmp_path / "speaker" / "x.eaf")
    found = read_alignments(tmp_path, "phones")
    assert set(found.phones) == {"speaker/x", "y"}
    reasons = {(row["file"], row["id"]): row["reason"] for row in found.rejected}
    assert "got y 1 soon 0.1 a" in reasons["more.ctm", "line 2"] and ("more.ctm", "line 3") in reasons
    assert "must not overlap" in reasons["more.ctm", "z"]
    assert "cannot be read" in reasons["broken.TextGrid", ""]
    assert "has no tier 'phones'; it has words: give --phone_tier" in reasons["words.TextGrid", ""]
    double = {(row["id"], row["file"]) for row in found.rejected if "already holds" in row["reason"]}
    assert double in ({("speaker/x", "speaker/x.eaf")}, {("speaker/x", "speaker/x.TextGrid")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no file or folder"),
        (lambda folder: write(folder / "notes.txt", ["nothing"]), "holds no alignments; give .TextGrid, .eaf, .ctm"),
        (lambda folder: write(folder / "a.ctm", ["x"]), "holds no phones that can be read: a line of CTM holds"),
        (lambda folder: write(folder / "a.ctm", ["x 1 0 1 sil"]), "holds no phones that can be read, or only sil"),
    ],
)
def test_a_folder_without_phones_is_refused(tmp_path, make, message):
    make(tmp_path / "in")
    with pytest.raises(UserError, match=message):
        read_alignments(tmp_path / "in", "phones")


def test_what_tables_may_have_around_their_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf#file onset offset phone\r\nx 0 0.5 k\r\n")
    (tmp_path / "b.ctm").write_text("y 1 0 0.5 k\u0085\ny 1 0.5 0.5 a\u2028b\n", encoding="utf-8")
    found = read_alignments(tmp_path, "phones")
    assert not found.rejected and set(found.phones) == {"x", "y"} and len(found.phones["y"].names) == 2


@pytest.mark.parametrize("phone", ["null", "true", "[1]"])
def test_a_label_that_is_none_is_rejected(tmp_path, phone):
    form = '{{"source_file": "x", "start": {}, "end": {}, "phone": {}}}'
    write(tmp_path / "a.jsonl", [form.format(0, 1, '"k"'), form.format(1, 2, phone), form.format(2, 3, 7)])
    found = read_alignments(tmp_path, "phones")
    assert found.phones["x"].names.tolist() == ["k", "7"] and [row["id"] for row in found.rejected] == ["line 2"]


def test_an_annotation_of_elan_without_times_is_named(tmp_path):
    elan(tmp_path)
    (file,) = tmp_path.rglob("*.eaf")
    content = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r' TIME_VALUE="[1-9]\d*"', "", content, count=1), encoding="utf-8")
    with pytest.raises(UserError, match="the tier 'phones' has annotations without times.*export"):
        read_alignments(tmp_path, "phones")


def test_a_document_of_elan_whose_recording_was_synchronised(tmp_path):
    """Its times are those of the video; the recording was started 1.5 s before."""
    document = Eaf()
    document.add_tier("phones")
    document.add_annotation("phones", 100, 200, "k")
    document.add_linked_file("file:///x.mp4", mimetype="video/mp4")
    document.add_linked_file("file:///x.wav", mimetype="audio/x-wav", time_origin=1500)
    document.to_file(tmp_path / "x.eaf")
    found = read_alignments(tmp_path, "phones").phones["x"]
    assert found.starts.tolist() == [1.6] and found.ends.tolist() == [1.7]
    document.add_linked_file("file:///y.wav", mimetype="audio/x-wav")
    document.to_file(tmp_path / "x.eaf")
    with pytest.raises(UserError, match="its recordings begin at 0, 1500 ms of its time.*keep the one"):
        read_alignments(tmp_path, "phones")


@pytest.mark.parametrize("content", ["", "no XML", "<a>", "<ANNOTATION_DOCUMENT/>", "<!DOCTYPE x [<!ENTITY a 'b'>]>"])
def test_a_file_of_elan_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "x.eaf").write_text(content)
    with pytest.raises(UserError, match=r"x.eaf holds no phones that can be read: .*x.eaf"):
        read_alignments(tmp_path / "x.eaf", "phones")


def test_a_name_that_two_alignments_have_needs_its_folder(tmp_path):
    for folder in ("a", "b"):
        textgrid(tmp_path / folder / "x.TextGrid", {"phones": PHONES})
    found = read_alignments(tmp_path, "phones")
    assert found.of_frames(ROW) is None
    assert found.of_frames({**ROW, "source_file": "a/x.wav"}) is not None
