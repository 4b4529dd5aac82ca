"""The recipe that cuts long recordings: result, resuming without reading twice, the same by prepare_corpus."""

import re
from pathlib import Path

import pytest
from datasets import Audio, load_dataset
from kill_and_resume import differences
from make_long_recordings import long_recording

from dataset_scripts import segment_writer, shards
from hf_components.runtime.errors import UserError
from recipes import prepare_corpus, segment_audio

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(4):
        long_recording(tmp_path / "audio" / f"{number}.wav", seed=number)
    (tmp_path / "audio" / "empty.wav").touch()
    return tmp_path / "audio"


def run(root: Path, output: Path, *flags: str) -> dict:
    return segment_audio.main([f"--data_dir={root}", f"--output_dir={output}", "--num_proc=1", *flags])


def test_a_prepared_corpus_with_statistics_and_histogram(root, tmp_path, capsys):
    metrics = run(root, tmp_path / "out", "--num_proc=2", "--name=Tales")
    assert metrics["rows"] == {"train": 9, "dev": 3} and metrics["rejected"] == {"empty audio": 1}
    assert metrics["segments"]["duration"]["longest"] == pytest.approx(1.6, abs=0.02)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md",
        "data",
        "durations.png",
        "rejected.jsonl",
        "segments.json",
        "splits.json",
        "stage.json",
    }
    assert (tmp_path / "out" / "durations.png").read_bytes().startswith(b"\x89PNG")
    rows = load_dataset(str(tmp_path / "out"), split="dev").cast_column("audio", Audio(decode=False))
    assert {"id", "audio", "text", "speaker_id", "group", "duration", "source_file", "start", "end"} <= set(
        rows.column_names
    )
    shown = capsys.readouterr().out
    for word in ("left out: silence", "left out: too short", "rejected: empty audio", "segments: dev", "██"):
        assert word in shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Tales" in card and "| segments (12) |" in card and "without transcripts" in card
    assert "automatic-speech-recognition" not in card


def test_killed_and_resumed_no_finished_recording_is_read_twice(root, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    metrics = run(root, whole)
    read, stream = [], segment_writer.stream

    def stream_and_stop_at_third(path):
        read.append(path.name)
        blocks = stream(path)
        yield next(blocks)
        if len(read) == 3:
            raise KeyboardInterrupt
        yield from blocks

    monkeypatch.setattr(segment_writer, "stream", stream_and_stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(root, killed)
    assert run(root, killed, "--resume") == metrics
    assert len(read) == 5 and read.count(read[2]) == 2 and len(set(read)) == 4
    assert differences(whole, killed) == []
    assert run(root, killed, "--resume") == metrics and len(read) == 5


def test_a_long_run_says_once_what_the_rest_costs(root, tmp_path, monkeypatch, capsys):
    run(root, tmp_path / "short")
    assert "Estimated" not in capsys.readouterr().err
    monkeypatch.setattr(shards, "SECONDS_UNTIL_ESTIMATE", 0)
    run(root, tmp_path / "out")
    told = re.findall(
        r"Estimated rest of preparing: ~.* minutes and (\S+) MiB of the .*measured on the first (.*)%",
        capsys.readouterr().err,
    )
    assert len(told) == 1 and 0 < float(told[0][1]) < 100


def test_the_number_of_workers_changes_nothing(root, tmp_path):
    one, two = run(root, tmp_path / "one"), run(root, tmp_path / "two", "--num_proc=2")
    assert one == two
    assert {path.name: path.read_bytes() for path in (tmp_path / "one" / "data").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "two" / "data").iterdir()
    }


def test_changed_recordings_are_cut_again(root, tmp_path):
    run(root, tmp_path / "out")
    long_recording(root / "3.wav", bursts=5)
    assert sum(run(root, tmp_path / "out", "--resume")["rows"].values()) == 14


def test_the_same_by_prepare_corpus(root, tmp_path):
    flags = ["--min_silence=0.4", "--val_ratio=0.3", "--silence_db", "-35"]
    prepare_corpus.main(["--builder=segmented_audio", f"--data_dir={root}", f"--output_dir={tmp_path / 'a'}", *flags])
    run(root, tmp_path / "b", *flags)
    assert (tmp_path / "a" / "segments.json").read_text() == (tmp_path / "b" / "segments.json").read_text()
    with pytest.raises(UserError, match="--min_silence is no option of the builder speaker_json"):
        prepare_corpus.main([f"--data_dir={root}", f"--output_dir={tmp_path / 'c'}", *flags[:1]])


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num_proc=0"], "--num_proc must be at least 1, got 0"),
        (["--silence_db=3"], r"--silence_db must lie in \(-120, 0\), got 3"),
        (["--detector=ear"], "--detector: invalid choice: 'ear' .choose from 'energy', 'vad'."),
        (["--silence=-40"], "did you mean --silence_db"),
    ],
)
def test_wrong_flags(root, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run(root, tmp_path / "out", *flags)


@pytest.mark.slow
def test_real_narration(corpora, tmp_path):
    metrics = segment_audio.main([f"--data_dir={corpora / 'narration'}", f"--output_dir={tmp_path / 'out'}"])
    segments = metrics["segments"]
    assert segments["recordings"] == 6 and not metrics["rejected"]
    assert 150 < segments["segments"] < 300 and 2 < segments["duration"]["mean"] < 5
    assert 0.6 < segments["seconds"]["speech"] / segments["seconds"]["total"] < 0.8
