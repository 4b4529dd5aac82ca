"""The demo corpus of children: the layout of JSONL manifests, disjoint, deterministic, younger voices higher and
slower."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataset_scripts.demo_children import AGES, write_demo_children
from dataset_scripts.demo_voices import draw_speaker
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit
pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")

SIZE = {"train_speakers": 2, "dev_speakers": 1, "utterances_per_speaker": 4}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_children(folder, **SIZE)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_manifest_matches_its_audio(corpus):
    rows = lines(corpus / "train_word_transcripts.jsonl")
    assert len(rows) == 4 * 2 * 4 and len({row["child_id"] for row in rows}) == 8
    for row in rows:
        (path,) = corpus.glob(f"audio_?/{row['audio_path']}")
        assert hashlib.md5(path.read_bytes()).hexdigest() == row["md5_hash"]
        assert path.stat().st_size == row["filesize_bytes"]
        assert soundfile.info(path).duration == pytest.approx(row["audio_duration_sec"], abs=1e-3)
        assert 1 <= row["audio_duration_sec"] <= 4
        assert row["orthographic_text"] == row["orthographic_text"].lower().strip(".,?! ")
    assert {path.name for path in corpus.glob("audio_*")} == {"audio_0", "audio_1", "audio_2"}
    assert len({row["session_id"] for row in rows}) == 16


def test_children_to_be_judged_come_apart_and_without_text(corpus):
    train = lines(corpus / "train_word_transcripts.jsonl")
    metadata, form, truth = (
        lines(corpus / "test" / f"{name}.jsonl") for name in ("utterance_metadata", "submission_format", "transcripts")
    )
    assert not {row["child_id"] for row in train} & {row["child_id"] for row in metadata}
    assert not {row["orthographic_text"] for row in train} & {row["orthographic_text"] for row in truth}
    assert len({row["orthographic_text"] for row in train + truth}) == len(train + truth)
    assert all("orthographic_text" not in row and (corpus / "test" / row["audio_path"]).is_file() for row in metadata)
    assert form == [{"utterance_id": row["utterance_id"], "orthographic_text": ""} for row in metadata]
    assert [row["utterance_id"] for row in truth] == [row["utterance_id"] for row in metadata]
    assert len({row["utterance_id"] for row in train + metadata}) == len(train + metadata)


def test_same_arguments_same_bytes(corpus, tmp_path):
    write_demo_children(tmp_path, **SIZE)
    files = {path.relative_to(corpus) for path in corpus.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all((corpus / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_younger_is_higher_and_slower():
    means = [
        (np.mean([child.pitch for child in children]), -np.mean([child.rate for child in children]))
        for children in (
            [draw_speaker(0, "Train", age, group, number) for number in range(20)] for age, group in AGES.items()
        )
    ]
    assert means == sorted(means, reverse=True)
    assert [rate for _, rate in means] == sorted((rate for _, rate in means), reverse=True)


@pytest.mark.parametrize(
    "size, message",
    [
        ({"dev_speakers": 0}, r"`dev_speakers` must lie in \[1, .*got 0"),
        ({"train_speakers": 20, "utterances_per_speaker": 10}, "must be at most 600, got 800"),
    ],
)
def test_size_out_of_range(tmp_path, size, message):
    with pytest.raises(UserError, match=message):
        write_demo_children(tmp_path, **size)
