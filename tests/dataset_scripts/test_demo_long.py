"""The demo corpus of long recordings: lengths, pauses where they are said to be, determinism."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_scripts.demo_long import write_demo_long
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.speech.segmenting import SPEECH, Segmentation, segment

pytestmark = pytest.mark.unit
pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    (row,) = write_demo_long(folder)
    assert row["minutes"] == pytest.approx(4, abs=0.3) and row["utterances"] == 72 and row["sample_rate"] == 22_050
    return folder


def sentences(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "sentences.jsonl").read_text().splitlines()]


def test_recordings_are_long_and_their_sentences_listed(corpus):
    lines = sentences(corpus)
    assert sorted(path.name for path in corpus.glob("*.flac")) == [
        f"chapter_0{number}.flac" for number in (1, 2, 3, 4)
    ]
    assert len({line["text"] for line in lines}) == 72
    for number in (1, 2, 3, 4):
        own = [line for line in lines if line["file"] == f"chapter_0{number}.flac"]
        assert 40 < len(decode(corpus / own[0]["file"])) / 16_000 < 90
        assert all(0.7 <= after["start"] - before["end"] <= 1.51 for before, after in zip(own, own[1:], strict=False))


def test_segments_are_the_sentences(corpus):
    rules = Segmentation(min_segment=0.5)
    for file in {line["file"] for line in sentences(corpus)}:
        found = [
            (stretch.start / 16_000, stretch.end / 16_000)
            for stretch in segment([decode(corpus / file)], rules, rules.new_detector())
            if stretch.kind == SPEECH
        ]
        said = [(line["start"], line["end"]) for line in sentences(corpus) if line["file"] == file]
        assert np.abs(np.array(found) - np.array(said)).max() < 0.25


def test_same_arguments_same_bytes_and_narrators_have_folders(tmp_path):
    for folder in ("two", "same"):
        write_demo_long(tmp_path / folder, train_speakers=2, utterances_per_speaker=4)
    files = [path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*") if path.is_file()]
    assert len(files) == 9
    assert all((tmp_path / "two" / file).read_bytes() == (tmp_path / "same" / file).read_bytes() for file in files)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "NARRATOR-TRAIN-00",
        "NARRATOR-TRAIN-01",
        "sentences.jsonl",
    ]
    assert {line["file"].split("/")[0] for line in sentences(tmp_path / "two")} == {
        "NARRATOR-TRAIN-00",
        "NARRATOR-TRAIN-01",
    }


@pytest.mark.parametrize(
    "size", [{"train_speakers": 0}, {"utterances_per_speaker": 3}, {"utterances_per_speaker": 401}]
)
def test_sizes_out_of_range(tmp_path, size):
    with pytest.raises(UserError, match="must lie in"):
        write_demo_long(tmp_path, **size)
