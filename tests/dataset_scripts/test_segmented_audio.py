"""Long recordings to segments: where each comes from, who speaks, what cannot be used, how splits are made."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from make_corpus import noise
from make_long_recordings import long_recording
from tiny_units import babble

from dataset_scripts import SegmentedAudio
from dataset_scripts.prepared import write_corpus
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.speech.corpus import load_corpus, summarise_corpus, waveforms

pytestmark = pytest.mark.unit

SECOND = 16_000


def prepare(root: Path, output: Path, **options) -> dict:
    output.mkdir()
    return write_corpus(SegmentedAudio, output, {"data_dir": str(root), **options}, name="x", source="segmented_audio")


def rows_of(output: Path) -> list[dict]:
    return [{**row, "split": split} for split, rows in load_corpus(output).items() for row in rows]


def listing(root: Path, **options):
    return SegmentedAudio(data_dir=str(root), **options).read_manifests()


def test_segments_are_their_source_from_start_to_end(tmp_path):
    """Bit for bit where the source is 16-bit at 16 kHz, to the last bit of 16 elsewhere."""
    root = tmp_path / "audio"
    long_recording(root / "a.wav")
    long_recording(root / "b.flac", rate=44_100, channels=2, seed=1)
    long_recording(root / "deep" / "er" / "c.ogg", rate=8_000, seed=2)
    metrics = prepare(root, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 9 == sum(metrics["rows"].values())
    for row, waveform in zip(rows, waveforms(rows), strict=True):
        start, end = row["start"] * SECOND, row["end"] * SECOND
        source = decode(root / row["source_file"])[round(start) : round(end)]
        assert start.is_integer() and end.is_integer() and row["duration"] * SECOND == end - start
        assert np.abs(source - waveform).max() <= (0 if row["source_file"] == "a.wav" else 0.51 / 32768)
        assert row["text"] == "" and row["raw_text"] is None and row["group"] == "unknown"
        assert row["id"] == f"{row['source_file'].split('.')[0]}-{1000 * row['start']:08.0f}-{1000 * row['end']:08.0f}"
        assert row["speaker_id"] == "unknown"
    assert len({row["id"] for row in rows}) == 9


def test_kept_and_left_out_are_all_there_is_to_the_sample(tmp_path):
    root = tmp_path / "audio"
    for name, rate in (("a.wav", 16_000), ("b.mp3", 44_100), ("c.flac", 22_050), ("d.ogg", 48_000), ("e.wav", 11_025)):
        long_recording(root / name, rate=rate, seed=rate)
    metrics = prepare(root, tmp_path / "out", min_segment=1.45)  # so that the first burst of each is too short
    segments, rows = metrics["segments"], rows_of(tmp_path / "out")
    for file in segments["files"]:
        samples = file["samples"]
        assert samples["total"] == len(decode(root / file["source_file"]))
        assert samples["total"] == samples["speech"] + samples["silence"] + samples["too short"]
        assert samples["too short"] > 0 and samples["silence"] > 0
        kept = [row["duration"] for row in rows if row["source_file"] == file["source_file"]]
        assert round(sum(kept) * SECOND) == samples["speech"] and len(kept) == file["segments"] == 2
    assert segments["segments"] == len(rows) == sum(segments["histogram"]["counts"])
    assert segments["seconds"]["total"] == sum(file["samples"]["total"] for file in segments["files"]) / SECOND
    assert segments == json.loads((tmp_path / "out" / "segments.json").read_text())


def test_what_cannot_be_used_is_listed_with_its_reason(tmp_path, caplog):
    root, outside = tmp_path / "audio", long_recording(tmp_path / "outside.wav")
    long_recording(root / "good.wav")
    soundfile.write(root / "silent.wav", np.zeros(2 * SECOND), SECOND)
    soundfile.write(root / "faint.wav", noise(2.0) * 0.001, SECOND)
    soundfile.write(root / "short.wav", noise(0.02), SECOND)
    soundfile.write(
        root / "nan.wav", np.r_[noise(70.0), np.float32("nan")], SECOND, subtype="FLOAT"
    )  # in the second block
    (root / "empty.wav").touch()
    (root / "text.mp3").write_text("This is no sound at all. " * 50)
    (root / "cut.flac").write_bytes(long_recording(tmp_path / "whole.flac").read_bytes()[:-20_000])
    (root / "link.wav").symlink_to(outside)
    (root / "gone.wav").symlink_to(tmp_path / "nowhere")
    (root / "notes.txt").write_text("no recording")
    metrics = prepare(root, tmp_path / "out", val_ratio=0)
    assert {row["source_file"] for row in rows_of(tmp_path / "out")} == {"good.wav", "link.wav"}
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {row["file"]: row["reason"] for row in rejected} == {
        "silent.wav": "silence only",
        "faint.wav": "silence only",
        "short.wav": "too short",
        "nan.wav": "non-finite samples",
        "empty.wav": "empty audio",
        "text.mp3": "unreadable audio",
        "cut.flac": "truncated audio",
        "gone.wav": "missing file",
    }
    files = list((tmp_path / "out" / "data").iterdir())
    kept = {name for file in files for name in pyarrow.parquet.read_table(file)["source_file"].to_pylist()}
    assert metrics["rejected"]["silence only"] == 2 and len(kept) == 2
    detail = {row["file"]: row["detail"] for row in rejected}
    assert "its loudest tenth is above -79 dB, silence_db is -40" in detail["faint.wav"]
    assert "from 65.5 s on" in detail["nan.wav"] and "neither libsndfile nor FFmpeg reads it" in detail["text.mp3"]
    assert detail["gone.wav"].startswith(f"gone.wav is a link to {tmp_path}/nowhere, where nothing is")
    assert metrics["rows"] == {"train": 6}
    (warning,) = caplog.records
    assert "1 recordings are copies of others, such as link.wav of good.wav" in warning.getMessage()


def test_clipping_and_an_offset_are_used_and_clipping_is_told_of(tmp_path, caplog):
    root = tmp_path / "audio"
    plain, rate = soundfile.read(long_recording(root / "plain.wav"), dtype="float32")
    soundfile.write(root / "offset.wav", plain + np.float32(0.4), rate)
    soundfile.write(root / "clipped.wav", np.clip(6 * plain, -1, 1), rate)
    metrics = prepare(root, tmp_path / "out")
    spans = {
        name: [(row["start"], row["end"]) for row in rows_of(tmp_path / "out") if row["source_file"] == name]
        for name in ("plain.wav", "offset.wav", "clipped.wav")
    }
    assert len(spans["plain.wav"]) == 3 and spans["plain.wav"] == spans["offset.wav"]
    assert np.abs(np.array(spans["clipped.wav"]) - spans["plain.wav"]).max() <= 0.0101  # it is also louder
    clipped = {file["source_file"]: file["clipped"] for file in metrics["segments"]["files"]}
    assert clipped["plain.wav"] == clipped["offset.wav"] == 0
    share = np.mean(np.abs(6 * plain) >= 32767 / 32768)
    assert clipped["clipped.wav"] == pytest.approx(share, abs=1e-4) and share > 0.01
    (warning,) = [record.getMessage() for record in caplog.records if "are clipped" in record.getMessage()]
    assert f"1 recordings are clipped, most of all clipped.wav with {100 * share:.2f} % of its samples" in warning


@pytest.mark.parametrize(
    "gain, bed, message", [(0.1, 0, "so quiet that speech may be taken for silence"), (1, 0.02, "hardly ever silent")]
)
def test_a_threshold_that_does_not_fit_is_told_of(tmp_path, caplog, gain, bed, message):
    plain, rate = soundfile.read(long_recording(tmp_path / "audio" / "a.wav"), dtype="float32")
    soundfile.write(tmp_path / "audio" / "a.wav", gain * plain + bed * 10 * noise(10)[: len(plain)], rate)
    prepare(tmp_path / "audio", tmp_path / "out", silence_db=-45 if gain < 1 else -40, val_ratio=0)
    assert message in caplog.text


def empty_recordings(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, noise(0.1), SECOND)
    return root


def test_speakers_are_folders_if_there_are_several(tmp_path):
    root = empty_recordings(tmp_path, "ada/1.wav", "ada/old/2.wav", "ben/1.wav", "who.wav")
    found = listing(root)
    assert {row.id: row.speaker_id for rows in found.splits.values() for row in rows} == {
        "ada/1": "ada",
        "ada/old/2": "ada",
        "ben/1": "ben",
        "who": "unknown",
    }
    one = listing(empty_recordings(tmp_path / "one", "genesis/01.wav", "genesis/02.wav"))
    assert {row.speaker_id for rows in one.splits.values() for row in rows} == {"unknown"}


def test_names_that_differ_in_their_suffix_alone_are_kept_apart(tmp_path):
    found = listing(empty_recordings(tmp_path, "a.wav", "a.flac", "b.wav"))
    assert {row.id for rows in found.splits.values() for row in rows} == {"a.wav", "a.flac", "b"}


def test_dev_is_whole_recordings_that_can_be_used(tmp_path):
    root = tmp_path / "audio"
    for number in range(5):
        long_recording(root / f"{number}.wav", seed=number)
        soundfile.write(root / f"{number}_silent.wav", np.zeros(SECOND), SECOND)
    metrics = prepare(root, tmp_path / "out", val_ratio=0.4)
    sides = metrics["splits"]["recordings"]
    assert metrics["rows"] == {"train": 9, "dev": 6} and (len(sides["train"]), len(sides["dev"])) == (3, 2)
    for side in sides:
        files = {row["source_file"] for row in rows_of(tmp_path / "out") if row["split"] == side}
        assert sides[side] == sorted(file.removesuffix(".wav") for file in files)
    assert prepare(root, tmp_path / "again", val_ratio=0.4)["splits"] == metrics["splits"]
    assert prepare(root, tmp_path / "other", val_ratio=0.4, split_seed=1)["splits"]["recordings"] != sides
    assert list(prepare(root, tmp_path / "none", val_ratio=0)["rows"]) == ["train"]


def test_a_speaker_is_in_one_split_with_all_recordings(tmp_path):
    for number in range(6):
        long_recording(tmp_path / "audio" / f"speaker_{number % 3}" / f"{number}.wav", seed=number)
    metrics = prepare(tmp_path / "audio", tmp_path / "out", val_ratio=0.3)
    assert metrics["rows"] == {"train": 12, "dev": 6} and metrics["splits"]["split_by"] == "speaker"
    assert len({row["source_file"] for row in rows_of(tmp_path / "out") if row["split"] == "dev"}) == 2


def test_the_last_part_of_a_single_recording_is_dev(tmp_path):
    long_recording(tmp_path / "audio" / "a.wav", bursts=10)
    metrics = prepare(tmp_path / "audio", tmp_path / "out", val_ratio=0.25)
    rows = rows_of(tmp_path / "out")
    total = decode(tmp_path / "audio" / "a.wav").size / SECOND
    assert {row["split"] for row in rows} == {"train", "dev"} and list(metrics["rows"]) == ["train", "dev"]
    assert all((row["split"] == "dev") == (row["start"] >= 0.75 * total) for row in rows)
    assert metrics["splits"]["last_part_of"] == ["a"]
    assert "the segments that start in the last 25 % of each are\ndev" in (tmp_path / "out" / "README.md").read_text()


def test_master_and_access_copy_are_on_one_side(tmp_path, caplog):
    """Also in other folders, and under other names."""
    root = tmp_path / "audio"
    (root / "again").mkdir(parents=True)
    for number in range(6):
        sound = babble(4.0, number)
        soundfile.write(root / f"t{number}.wav", sound, SECOND)
        place = ("t{}.mp3", "t{} (1).mp3", "again/t{}.ogg", "again/tape_{}.ogg", "again/side {}.wav", "{}.flac")[
            number
        ]
        soundfile.write(root / place.format(number), sound, SECOND)
    for seed in range(4):
        prepare(root, tmp_path / f"out{seed}", val_ratio=0.3, split_seed=seed, silence_db=-60)
        number_of = {re.search(r"\d", row["source_file"])[0]: set() for row in rows_of(tmp_path / f"out{seed}")}
        for row in rows_of(tmp_path / f"out{seed}"):
            number_of[re.search(r"\d", row["source_file"])[0]].add(row["split"])
        assert len(number_of) == 6 and all(len(splits) == 1 for splits in number_of.values())
        assert {split for splits in number_of.values() for split in splits} == {"train", "dev"}
    (first, *_) = [record.getMessage() for record in caplog.records if "are copies of others" in record.getMessage()]
    assert first.startswith("6 recordings are copies of others, such as ") and "keep one of each" in first
    card = (tmp_path / "out0" / "README.md").read_text()
    assert "Dev: held-out recordings; speakers unknown, so the same voices may be in train." in card
    assert "| train | unknown | 8 | unknown |" in card and "held-out speakers" not in card


def test_the_last_part_of_a_single_recording_and_of_its_copy_is_dev(tmp_path):
    sound = babble(12.0, 0)
    (tmp_path / "audio").mkdir()
    for name in ("a.wav", "a.mp3"):
        soundfile.write(tmp_path / "audio" / name, sound, SECOND)
    metrics = prepare(tmp_path / "audio", tmp_path / "out", val_ratio=0.4, silence_db=-60, max_segment=3.0)
    dev = [row["start"] for row in rows_of(tmp_path / "out") if row["split"] == "dev"]
    train = [row["start"] for row in rows_of(tmp_path / "out") if row["split"] == "train"]
    assert len(metrics["splits"]["last_part_of"]) == 2 and min(dev) > max(train)


def test_folders_of_formats_are_no_speakers(tmp_path, caplog):
    for number in range(4):
        long_recording(tmp_path / "audio" / "wav" / f"{number}.wav", seed=number)
        long_recording(tmp_path / "audio" / "flac" / f"{number}.flac", seed=number)
    long_recording(tmp_path / "audio" / "wav" / "4.wav", seed=4)
    prepare(tmp_path / "audio", tmp_path / "out")
    assert {row["speaker_id"] for row in rows_of(tmp_path / "out")} == {"unknown"}
    assert "the folders flac, wav hold the same recordings, so they are not taken for speakers" in caplog.text


def test_speakers_with_one_recording_each_give_its_last_part(tmp_path):
    """Three speakers could only give a third of the corpus, so that dev has the same voices."""
    for name in ("ada", "ben", "carl"):
        long_recording(tmp_path / "audio" / name / "tale.wav", bursts=10, seed=ord(name[0]))
    metrics = prepare(tmp_path / "audio", tmp_path / "out", val_ratio=0.15)
    assert metrics["rows"] == {"train": 27, "dev": 3}
    corpus = load_corpus(tmp_path / "out")  # which may share speakers, since its rows are segments
    assert set(corpus["dev"]["speaker_id"]) == set(corpus["train"]["speaker_id"]) == {"ada", "ben", "carl"}
    held_out = "the last part of each recording of the same speakers as in train"
    assert metrics["splits"]["held_out"] == summarise_corpus(tmp_path / "out")["held_out"] == held_out


def test_recordings_that_an_earlier_version_took_for_speakers_are_unknown(tmp_path):
    for number in range(3):
        long_recording(tmp_path / "audio" / f"{number}.wav", bursts=1, seed=number)
    prepare(tmp_path / "audio", tmp_path / "out")
    for split, rows in load_corpus(tmp_path / "out").items():
        names = [name.split("-")[0] for name in rows["id"]]
        rows = rows.remove_columns("speaker_id").add_column("speaker_id", names)
        rows.to_parquet(tmp_path / "earlier" / "data" / f"{split}-0.parquet")
    card = (tmp_path / "out" / "README.md").read_text().splitlines(keepends=True)
    (tmp_path / "earlier" / "README.md").write_text("".join(line for line in card if "content " not in line))
    assert {row["speaker_id"] for row in rows_of(tmp_path / "earlier")} == {"unknown"}
    assert "speakers unknown" in summarise_corpus(tmp_path / "earlier")["held_out"]


def test_unknown_speakers_cannot_be_held_out(tmp_path):
    root = empty_recordings(tmp_path, "1.wav", "2.wav")
    with pytest.raises(UserError, match="fewer than two are known in .*; make a folder for each speaker"):
        listing(root, split_by="speaker")
    with pytest.raises(UserError, match="split_by must be speaker or recording, got 'voice'"):
        listing(root, split_by="voice")


def test_no_dev_is_told_of(tmp_path, caplog):
    long_recording(tmp_path / "audio" / "a.wav", bursts=2)
    assert list(prepare(tmp_path / "audio", tmp_path / "out", val_ratio=0.1)["rows"]) == ["train"]
    assert "there is no dev: no segment begins in the last part of the recording" in caplog.text
    (tmp_path / "audio" / "empty.wav").touch()
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros(SECOND), SECOND)
    assert list(prepare(tmp_path / "audio", tmp_path / "again", val_ratio=0.1)["rows"]) == ["train"]
    assert "there is no dev: the segments of only one recording can be used" in caplog.text


def test_as_a_builder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for number in range(3):
        long_recording(tmp_path / "audio" / f"{number}.wav", seed=number)
    (tmp_path / "audio" / "bad.wav").touch()
    builder = SegmentedAudio(data_dir=str(tmp_path / "audio"), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert {split: len(rows) for split, rows in builder.as_dataset().items()} == {"train": 6, "dev": 3}
    assert [row["reason"] for row in builder.rejections()] == ["empty audio"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_duration": 20.0}, "max_duration is for recordings that are not cut; give max_segment"),
        ({"min_duration": 1.0}, "give min_segment"),
        ({"val_ratio": 1.0}, r"val_ratio must lie in \[0, 1\)"),
        ({"padding": 1.0}, "padding"),
    ],
)
def test_options_out_of_range(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        SegmentedAudio(data_dir=str(tmp_path), **options)


def test_nothing_to_cut_and_nothing_left_are_told(tmp_path):
    with pytest.raises(UserError, match="holds no recordings"):
        listing(tmp_path)
    soundfile.write(tmp_path / "silent.wav", np.zeros(SECOND), SECOND)
    with pytest.raises(
        UserError, match="has no usable utterance: 1 silence only; for example silent.wav: the detector"
    ):
        prepare(tmp_path, tmp_path / "out")
