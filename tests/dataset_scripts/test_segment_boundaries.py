"""Segments that were marked in Praat or ELAN: cut there to the sample, the rest left out, mistakes told by name."""

import json

import numpy as np
import pytest
from make_long_recordings import long_recording

from dataset_scripts import SegmentedAudio
from dataset_scripts.prepared import write_corpus
from dataset_scripts.segment_boundaries import annotation_files
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.speech.corpus import load_corpus, waveforms
from hf_components.speech.segmenting import SILENCE, SPEECH, cut_at
from hf_components.units.motifs.annotations import Interval, write_eaf, write_textgrid

pytestmark = pytest.mark.unit

MARKED = [(0.5, 1.25), (1.25, 2.0), (4.1, 5.000125)]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("boundaries", [[], [(0, 3), (3, 5), (9, 20)], [(18, 25)], [(0, 20)], [(30, 40)]])
def test_the_parts_are_the_recording_however_it_is_read(size, boundaries):
    sound = np.arange(20, dtype=np.float32)
    blocks = [sound[start : start + size] for start in range(0, 20, size)]
    stretches = list(cut_at(blocks, boundaries))
    assert [stretch.start for stretch in stretches] == [0, *(stretch.end for stretch in stretches[:-1])]
    assert stretches[-1].end == 20 and {stretch.kind for stretch in stretches} <= {SPEECH, SILENCE}
    spoken = [stretch for stretch in stretches if stretch.kind == SPEECH]
    assert [(one.start, one.end) for one in spoken] == [
        (start, min(end, 20)) for start, end in boundaries if start < 20
    ]
    assert all(np.array_equal(one.waveform, sound[one.start : one.end]) for one in spoken)


def annotate(folder, name: str, suffix: str, intervals=MARKED, tier: str = "segments", duration: float = 7.1):
    folder.mkdir(parents=True, exist_ok=True)
    tiers = {tier: [*(Interval(*interval, f"s{i}") for i, interval in enumerate(intervals)), Interval(5.5, 6.0, " ")]}
    if suffix == "TextGrid":
        write_textgrid(folder / f"{name}.TextGrid", tiers, duration)
    else:
        write_eaf(folder / f"{name}.eaf", tiers, {})


def prepare(root, output, **options) -> list[dict]:
    output.mkdir()
    write_corpus(
        SegmentedAudio, output, {"data_dir": str(root), "val_ratio": 0, **options}, name="x", source="segmented_audio"
    )
    return list(load_corpus(output)["train"])


@pytest.mark.parametrize("suffix", ["TextGrid", "eaf"])
def test_a_recording_is_cut_where_it_was_marked_and_the_others_at_their_pauses(tmp_path, suffix):
    root = tmp_path / "audio"
    long_recording(root / "a.wav")
    long_recording(root / "b.wav", seed=1)
    annotate(tmp_path / "marks", "a", suffix)
    rows = prepare(root, tmp_path / "out", boundaries=str(tmp_path / "marks"))
    of_a = [row for row in rows if row["source_file"] == "a.wav"]
    ends = [(0.5, 1.25), (1.25, 2.0), (4.1, 5.0 if suffix == "eaf" else 5.000125)]  # ELAN keeps milliseconds
    assert [(row["start"], row["end"]) for row in of_a] == ends
    whole = decode(root / "a.wav")
    for row, waveform in zip(of_a, waveforms(of_a), strict=True):
        assert np.array_equal(waveform, whole[round(row["start"] * 16_000) : round(row["end"] * 16_000)])
    alone = prepare(root, tmp_path / "alone")
    assert [row for row in rows if row["source_file"] == "b.wav"] == [
        row for row in alone if row["source_file"] == "b.wav"
    ]
    first, second = json.loads((tmp_path / "out" / "segments.json").read_text())["files"]
    assert "loud_db" not in first and "loud_db" in second and first["segments"] == 3


@pytest.mark.parametrize(
    ("intervals", "options", "message"),
    [
        ([(0.5, 1.0), (0.9, 2.0)], {}, "the intervals at 0.500 and 0.900 s overlap"),
        ([(0.5, 7.5)], {}, "from 0.500 to 7.500 s ends after its recording, which has 4.900 s; is it of another one"),
        ([(0.5, 0.51)], {}, "from 0.500 to 0.510 s must have 0.025 to 30 s; move its boundary"),
        ([(0.5, 4.5)], {"max_segment": 3.0}, "must have 0.025 to 3 s; move its boundary, or change max_segment"),
        ([(0.5, 1.0)], {"boundary_tier": "words"}, "has no tier 'words'"),
    ],
)
def test_mistakes_in_an_annotation_are_told(tmp_path, intervals, options, message):
    long_recording(tmp_path / "audio" / "a.wav", bursts=2)
    annotate(tmp_path / "marks", "a", "eaf", intervals)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "audio", tmp_path / "out", boundaries=str(tmp_path / "marks"), **options)


@pytest.mark.parametrize("name", ["caf\u00e9.textgrid", "cafe\u0301.TextGrid", "caf\u00e9.EAF", "caf%C3%A9.TEXTGRID"])
def test_an_annotation_may_be_spelled_in_another_way(tmp_path, name):
    (tmp_path / name).write_text("")
    (tmp_path / ".cafe.TextGrid").write_text("")
    assert annotation_files(tmp_path, {"caf\u00e9.wav": "caf\u00e9"}) == {"caf\u00e9.wav": tmp_path / name}


def test_annotations_of_other_recordings_or_of_both_kinds_are_told(tmp_path):
    long_recording(tmp_path / "audio" / "a.wav")
    annotate(tmp_path / "marks", "z", "eaf")
    with pytest.raises(UserError, match="has no annotation of these recordings; it needs files such as a.TextGrid"):
        prepare(tmp_path / "audio", tmp_path / "out", boundaries=str(tmp_path / "marks"))
    annotate(tmp_path / "marks", "a", "eaf")
    annotate(tmp_path / "marks", "a", "TextGrid")
    with pytest.raises(UserError, match="of the same recording; keep the one that was corrected"):
        prepare(tmp_path / "audio", tmp_path / "other", boundaries=str(tmp_path / "marks"))
