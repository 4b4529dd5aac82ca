"""Annotations read back by other libraries: Praat's own code for TextGrids, pympi for ELAN."""

import json

import numpy as np
import parselmouth
import pyarrow
import pytest
from parselmouth.praat import call
from praatio import textgrid
from pympi.Elan import Eaf
from tiny_motifs import TABLE, pair_motif

from hf_components.runtime.errors import UserError
from hf_components.units.motifs.annotations import Interval, tiers_of_recordings, write_eaf, write_textgrid
from hf_components.units.motifs.bpe import find_occurrences
from hf_components.units.motifs.corrections import corrected, read_tiers
from hf_components.units.motifs.decisions import Decisions
from hf_components.units.motifs.page import write_page

pytestmark = pytest.mark.unit

SEGMENT = [("0", 0.04), ("1", 0.06), ("2", 0.02), ("0", 0.02), ("1", 0.02)]  # units of the first segment, seconds


@pytest.fixture(scope="module")
def motifs(tmp_path_factory):
    return pair_motif(tmp_path_factory.mktemp("motifs"))


@pytest.fixture
def tiers(motifs):
    return tiers_of_recordings(TABLE, motifs, find_occurrences(motifs, TABLE))["a.wav"]


def test_times_are_those_of_the_recording(tiers):
    ends = np.cumsum([seconds for _, seconds in SEGMENT])
    expected = [Interval(start, end, unit) for (unit, _), start, end in zip(SEGMENT, [0, *ends], ends, strict=False)]
    assert [unit.label for unit in tiers["units"]] == ["0", "1", "2", "0", "1", "3", "2", "0", "1"]
    assert np.allclose([unit[:2] for unit in tiers["units"][:5]], [unit[:2] for unit in expected], atol=1e-9)
    assert tiers["motifs"] == [Interval(0, 0.1, "m4"), Interval(0.12, 0.16, "m4"), Interval(300.02, 300.14, "m4")]
    assert tiers["segments"] == [
        Interval(0, 0.17, "s0"),
        Interval(100, 100.01, "s1"),
        Interval(200, 200.11, "s2"),
        Interval(300, 300.15, "s3"),
    ]


def test_motifs_have_the_names_that_were_given_and_rejected_ones_are_left_out(motifs, tmp_path):
    clips = [
        {"segment": "s0", "source_file": "a.wav", "start": 0.0, "end": 0.1, "verdict": "yes"},
        {"segment": "s0", "source_file": "a.wav", "start": 0.12, "end": 0.16, "verdict": "no"},
    ]
    decided = {"units": motifs.identity, "motifs": [{"motif": "m4", "units": [0, 1], "name": "water", "clips": clips}]}
    (tmp_path / "decisions.json").write_text(json.dumps(decided))
    decisions = Decisions.read(tmp_path / "decisions.json", motifs.identity, "units")
    found = tiers_of_recordings(TABLE, motifs, find_occurrences(motifs, TABLE), decisions)["a.wav"]
    assert found["motifs"] == [Interval(0, 0.1, "water"), Interval(300.02, 300.14, "water")]
    with pytest.raises(UserError, match="must be of the same units"):
        Decisions.read(tmp_path / "decisions.json", {**motifs.identity, "num_units": 9}, "units")
    (tmp_path / "decisions.json").write_text('{"units": {}, "motifs": [{"motif": 4}]}')
    with pytest.raises(UserError, match="decisions.json is damaged: .*; save it again on the page"):
        Decisions.read(tmp_path / "decisions.json", motifs.identity, "units")


def test_recordings_apart_and_segments_in_order(motifs):
    table = pyarrow.concat_tables([TABLE.slice(3), TABLE.slice(0, 3)])
    table = table.set_column(2, "source_file", pyarrow.array(["a.wav", "b/c.mp3", "a.wav", "a.wav"]))
    recordings = tiers_of_recordings(table, motifs, find_occurrences(motifs, table))
    assert [segment.label for segment in recordings["a.wav"]["segments"]] == ["s1", "s2", "s3"]
    assert [segment.label for segment in recordings["b/c.mp3"]["segments"]] == ["s0"]
    assert [motif.start for motif in recordings["b/c.mp3"]["motifs"]] == [0, 0.12]


def test_segments_that_touch_do_not_overlap(motifs):
    starts = np.cumsum([0.1 + 1 / 44100, 0.2 + 1 / 3, 0.7, 0.17]) + 1e5
    table = TABLE.set_column(3, "start", pyarrow.array(starts)).set_column(
        5, "duration", pyarrow.array([*(np.diff(starts) + 1e-9), 0.2])
    )
    segments = tiers_of_recordings(table, motifs, find_occurrences(motifs, table))["a.wav"]["segments"]
    assert all(a.end == b.start for a, b in zip(segments, segments[1:], strict=False))


def test_praat_reads_the_textgrid(tiers, tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", tiers, 310.5)
    grid = parselmouth.read(str(tmp_path / "a.TextGrid"))
    assert grid.xmax == 310.5
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        assert call(grid, "Get tier name", number) == name
        count = call(grid, "Get number of intervals", number)
        queries = ("Get start time of interval", "Get end time of interval", "Get label of interval")
        found = [Interval(*(call(grid, query, number, i) for query in queries)) for i in range(1, count + 1)]
        assert [interval for interval in found if interval.label] == intervals
        assert found[0].start == 0 and found[-1].end == 310.5
        assert all(a.end == b.start for a, b in zip(found, found[1:], strict=False))


def test_praatio_reads_the_textgrid(tiers, tmp_path):
    write_textgrid(tmp_path / "a.TextGrid", tiers, 310.5)
    grid = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=False, reportingMode="error")
    assert {name: [tuple(interval) for interval in grid.getTier(name).entries] for name in grid.tierNames} == {
        name: [tuple(interval) for interval in intervals] for name, intervals in tiers.items()
    }


def test_elan_document_is_read_back(tiers, tmp_path):
    recording = tmp_path / "recordings" / "ß & <a>.mp3"
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "a.eaf"
    write_eaf(file, tiers, {"encoder": "mfcc", "layer": None}, recording)
    document = Eaf(file)
    assert list(document.get_tier_names()) == ["segments", "units", "motifs"]
    for name, intervals in tiers.items():
        assert sorted(document.get_annotation_data_for_tier(name)) == [
            (round(1000 * start), round(1000 * end), label) for start, end, label in intervals
        ]
    assert ("units:encoder", "mfcc") in document.properties
    (medium,) = document.get_linked_files()
    assert (medium["RELATIVE_MEDIA_URL"], medium["MIME_TYPE"]) == ("../recordings/ß & <a>.mp3", "audio/mpeg")
    assert medium["MEDIA_URL"] == recording.as_uri()


def test_labels_with_quotes_survive(tmp_path):
    tiers = {"segments": [Interval(0, 1, 'a "b" \\ & <c> ŋ')]}
    write_textgrid(tmp_path / "a.TextGrid", tiers, 1)
    write_eaf(tmp_path / "a.eaf", tiers, {})
    assert (
        call(parselmouth.read(str(tmp_path / "a.TextGrid")), "Get label of interval", 1, 1)
        == tiers["segments"][0].label
    )
    assert Eaf(tmp_path / "a.eaf").get_annotation_data_for_tier("segments")[0][2] == tiers["segments"][0].label


def test_a_recording_with_any_name_keeps_the_document_readable(tmp_path):
    write_eaf(tmp_path / "a.eaf", {"segments": [Interval(0, 1, "a")]}, {}, tmp_path / "\x1b[31m\u202e.wav")
    (medium,) = Eaf(tmp_path / "a.eaf").get_linked_files()
    assert medium["RELATIVE_MEDIA_URL"] == r"\x1b[31m\u202e.wav" and medium["MEDIA_URL"].endswith(
        "/%1B%5B31m%E2%80%AE.wav"
    )


def test_a_segment_whose_name_begins_with_a_space_comes_back(tmp_path):
    segment = {
        "id": " a-0",
        "start": 0.0,
        "units": [3, 3],
        "deduplicated": [3],
        "durations": [2],
        "start_times": [0.0],
    }
    tiers = {"segments": [Interval(0, 0.04, " a-0")], "units": [Interval(0, 0.04, "3")], "motifs": []}
    write_textgrid(tmp_path / "a.TextGrid", tiers, 0.04)
    write_eaf(tmp_path / "a.eaf", tiers, {})
    for file in (tmp_path / "a.TextGrid", tmp_path / "a.eaf"):
        assert corrected(segment, read_tiers(file), 4, file) == segment


def test_the_page_shows_names_that_would_turn_its_text_around(tmp_path):
    clip = {
        "file": "clips/0.flac",
        "units": [1],
        "left": [],
        "right": [],
        "start": 0.0,
        "end": 1.0,
        "voice": "\u202ev",
    }
    section = {
        "name": "m4",
        "units": [1],
        "about": "once",
        "clips": [{**clip, "segment": "\u202es", "source_file": "\u202ea"}],
    }
    write_page(tmp_path / "index.html", "Motifs", "Listen.", [section], {})
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "\u202e" not in page and all(rf"\u202e{name}" in page for name in "vsa")
