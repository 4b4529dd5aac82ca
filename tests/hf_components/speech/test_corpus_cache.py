"""Faults of the cache of `datasets` are told as such, and faults of the corpus as such."""

import errno
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.exceptions import DatasetGenerationError

from hf_components.runtime.errors import UserError
from hf_components.speech import corpus
from hf_components.speech.audio import encode_flac

pytestmark = pytest.mark.unit

ROW = {"id": "a", "audio": {"bytes": b"", "path": None}, "text": "x", "speaker_id": "s", "group": "g", "duration": 1.0}


@pytest.fixture
def prepared(tmp_path):
    folder = tmp_path / "prepared"
    datasets.Dataset.from_list([ROW]).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def load(monkeypatch, prepared: Path, error: BaseException) -> str:
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(corpus, "load_dataset", fail)
    with pytest.raises(UserError) as told:
        corpus.load_corpus(prepared)
    return str(told.value)


@pytest.mark.parametrize("cache", ["/proc/cache", "/dev/null/cache"])
def test_a_cache_that_cannot_be_made(monkeypatch, prepared, cache):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path(cache))
    with pytest.raises(UserError, match=f"the cache of data sets, {cache}, cannot be written: .*set HF_HOME"):
        corpus.load_corpus(prepared)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO])
def test_an_error_in_the_cache(monkeypatch, prepared, tmp_path, number, wrapped):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    error = OSError(number, os.strerror(number), str(tmp_path / "cache" / "x.arrow"))
    if wrapped:
        generation = DatasetGenerationError("An error occurred while generating the dataset")
        generation.__cause__ = error
        error = generation
    told = load(monkeypatch, prepared, error)
    assert os.strerror(number) in told and "set HF_HOME" in told and "prepare it again" not in told


@pytest.mark.parametrize("message", ["[Errno 28] Error writing bytes to file", "No space (os error 28)"])
def test_a_full_disk_without_a_file_name(monkeypatch, prepared, message):
    assert "set HF_HOME" in load(monkeypatch, prepared, RuntimeError(message))


def test_an_error_in_the_corpus_is_its_own(monkeypatch, prepared):
    file = str(prepared / "data" / "train-00000-of-00001.parquet")
    for number in (errno.EACCES, errno.EIO):
        told = load(monkeypatch, prepared, OSError(number, os.strerror(number), file))
        assert told.startswith(f"{prepared} cannot be read: ") and "HF_HOME" not in told
    assert "neither a folder nor" in load(monkeypatch, prepared, FileNotFoundError("no such data set"))


def test_rejected_rows_with_separators_are_counted(prepared):
    (prepared / "rejected.jsonl").write_text('{"id": "a\u2028b\u0085c", "reason": "missing file"}\n', encoding="utf-8")
    assert corpus.summarise_corpus(prepared)["rejected"] == {"missing file": 1}


def test_links_of_a_prepared_corpus(prepared, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "data").symlink_to(prepared / "data")
    assert corpus.load_corpus(linked)["train"]["id"][:] == ["a"]
    (linked / "data").unlink()
    (linked / "data").mkdir()
    (linked / "data" / "train-00000-of-00001.parquet").symlink_to("nowhere")
    with pytest.raises(UserError, match="train-00000-of-00001.parquet is a link to nowhere, where nothing is"):
        corpus.load_corpus(linked)


@pytest.mark.parametrize("seconds, given, is_refused", [(0.5, 500.0, True), (0.5, 0.5, False), (101.0, 101.0, False)])
def test_a_corpus_with_durations_in_milliseconds(tmp_path, seconds, given, is_refused):
    sound = encode_flac(np.zeros(round(seconds * 16_000), np.float32))
    rows = [ROW | {"audio": {"bytes": sound, "path": None}, "duration": given}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "ms" / "data" / "train-00000-of-00001.parquet")
    if is_refused:
        with pytest.raises(UserError, match="gives 500 and its recording lasts 0.50 s; divide the column by 1000"):
            corpus.load_corpus(tmp_path / "ms")
    else:
        assert len(corpus.load_corpus(tmp_path / "ms", "train")) == 1


@pytest.mark.parametrize("suffix", [".arrow", ".json"])
@pytest.mark.parametrize("content", [b"", b"{", "half", None])
def test_a_damaged_copy_in_the_cache(monkeypatch, prepared, tmp_path, suffix, content):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus.load_corpus(prepared)
    (file,) = (tmp_path / "cache").rglob(f"*{suffix}")
    if content is None:
        file.unlink()
        if suffix == ".json":
            assert len(corpus.load_corpus(prepared)["train"]) == 1
            return
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(UserError, match=f"the cache of data sets, {tmp_path}/cache, (is damaged|cannot be used)"):
        corpus.load_corpus(prepared)
