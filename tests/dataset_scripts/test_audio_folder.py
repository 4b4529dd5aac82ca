"""Folders of recordings: conditions, truth, what is no recording."""

import json

import pytest
import soundfile
from make_corpus import noise
from tiny_recordings import recordings
from tiny_speech import sentence

from dataset_scripts.audio_folder import AudioFolder, audio_files
from dataset_scripts.prepared import write_corpus
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus

pytestmark = pytest.mark.unit


def listed(folder, **options):
    listing = AudioFolder(data_dir=str(folder), **options).read_manifests()
    return {row.id: row for row in listing.splits["recordings"]}, listing.rejected


def empty_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_recording_is_a_row_or_a_rejection(tmp_path):
    folder = recordings(tmp_path / "audio")
    soundfile.write(folder / "clean" / "long.wav", noise(31.0), 16_000)
    metrics = write_corpus(
        AudioFolder,
        empty_files(tmp_path, "out/x.txt") / "out",
        {"data_dir": str(folder)},
        name="x",
        source="audio_folder",
    )
    assert metrics["rows"] == {"recordings": 10, "recordings_long": 1} and metrics["rejected"] == {
        "unreadable audio": 1
    }
    assert {row["speakers"] for row in metrics["groups"]} == {None}
    assert "| recordings | clean | 5 | unknown |" in (tmp_path / "out" / "README.md").read_text()
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert (rejected["id"], rejected["reason"]) == ("clean/broken.wav", "unreadable audio")
    corpus = load_corpus(tmp_path / "out")
    rows = {row["id"]: row for row in corpus["recordings"]}
    assert rows["noisy/street/2.wav"]["group"] == "noisy" and rows["clean/2.wav"]["group"] == "clean"
    assert rows["noisy/street/2.wav"]["text"] == sentence(3)
    assert corpus["recordings_long"][0]["text"] == "" and corpus["recordings_long"][0]["raw_text"] is None


def test_only_recordings_are_looked_at_and_those_elsewhere_rejected(tmp_path):
    folder = empty_files(
        tmp_path,
        "clean/a.WAV",
        "clean/deep/er/b.mp3",
        "clean/notes.txt",
        "clean/.hidden.wav",
        "noisy/c.m4a",
        "other/d.wav",
        "e.flac",
    )
    rows, rejected = listed(folder)
    assert list(rows) == ["clean/a.WAV", "clean/deep/er/b.mp3", "noisy/c.m4a"]
    assert {row["id"]: row["reason"] for row in rejected} == {"other/d.wav": "no condition", "e.flac": "no condition"}


def test_one_folder_is_split_in_half_by_name(tmp_path, caplog):
    rows, _ = listed(empty_files(tmp_path, *(f"audio_{n:03d}.wav" for n in range(1, 6)), "sub/z.wav"))
    assert [row.group for row in rows.values()] == 3 * ["clean"] + 3 * ["noisy"]
    assert "the first 3 recordings by name are taken for clean" in caplog.text


def test_numbers_are_divided_as_people_count(tmp_path):
    rows, _ = listed(empty_files(tmp_path, *(f"audio_{n}.wav" for n in range(1, 13))))
    assert {name for name, row in rows.items() if row.group == "clean"} == {f"audio_{n}.wav" for n in range(1, 7)}


@pytest.mark.parametrize(
    "suffix", ["WAVE", "sph", "nist", "dss", "DS2", "spx", "voc", "flv", "mpg", "mts", "pcm", "weba"]
)
def test_every_suffix_of_a_recording_is_listed(tmp_path, suffix):
    assert audio_files(empty_files(tmp_path, f"a.{suffix}", "a.txt", "b.jpg")) == [f"a.{suffix}"]


def test_truth_may_lie_elsewhere_and_name_more_or_less(tmp_path, caplog):
    folder = empty_files(tmp_path / "audio", "clean/a.wav", "noisy/b.wav")
    truth = tmp_path / "truth.jsonl"
    truth.write_text('{"file": "noisy/b.wav", "text": " two  words "}\n{"file": "gone.wav", "text": "x"}\n')
    rows, _ = listed(folder, truth=str(truth))
    assert [(row.raw_text, row.text) for row in rows.values()] == [(None, ""), (" two  words ", "two words")]
    assert "names 1 recordings that are not below" in caplog.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"file": "a.wav"}', "line 1: text must be a string"),
        ('{"file": "a.wav", "text": ""}\n{"file": "a.wav", "text": "x"}', "line 2: a.wav has a text already"),
    ],
)
def test_a_wrong_truth_is_named(tmp_path, lines, message):
    empty_files(tmp_path, "a.wav")
    (tmp_path / "truth.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        listed(tmp_path)


def test_nothing_to_read_and_no_transcripts_are_told(tmp_path):
    with pytest.raises(UserError, match="holds no recordings"):
        listed(empty_files(tmp_path, "notes.txt"))
    with pytest.raises(UserError, match="has no truth.jsonl"):
        listed(empty_files(tmp_path, "a.wav"), require_text=True)
