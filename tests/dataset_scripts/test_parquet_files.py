"""Small Parquet files are joined up to a size; a stop at any moment leads to the same files."""

import os
from pathlib import Path

import pyarrow.parquet
import pytest
from datasets import Dataset, Features, Value

from dataset_scripts import parquet_files
from dataset_scripts.parquet_files import place_files
from dataset_scripts.shards import Prepared
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

FEATURES = Features({"id": Value("string"), "noise": Value("binary")})


def write_files(folder: Path, kilobytes: list[int]) -> list[Path]:
    files = []
    for number, size in enumerate(kilobytes):
        files.append(folder / f"{number}" / "0.parquet")
        files[-1].parent.mkdir(parents=True)
        rows = [{"id": f"{number}-{i}", "noise": os.urandom(500)} for i in range(2 * size)]
        Dataset.from_list(rows, features=FEATURES).to_parquet(files[-1])
    return files


def ids(file: Path) -> list[str]:
    return pyarrow.parquet.read_table(file)["id"].to_pylist()


def test_neighbours_are_joined_up_to_a_size(tmp_path):
    files = write_files(tmp_path / "building", [30, 30, 30, 90, 10, 10])
    expected = [sum(map(ids, group), []) for group in (files[:2], files[2:3], files[3:4], files[4:])]
    (tmp_path / "data").mkdir()
    place_files(Prepared(files={"train": files, "dev": []}), tmp_path / "data", tmp_path / "building", 75_000)
    found = sorted((tmp_path / "data").iterdir())
    assert [file.name for file in found] == [f"train-{i:05d}-of-00004.parquet" for i in range(4)]
    assert [ids(file) for file in found] == expected
    assert Dataset.from_parquet(str(found[0]), cache_dir=str(tmp_path / "cache")).features == FEATURES
    assert not any(file.exists() for file in files)


@pytest.mark.parametrize("moment", range(8))
def test_a_stopped_run_goes_on_to_the_same_files(tmp_path, monkeypatch, moment):
    files = write_files(tmp_path / "building", [30, 30, 90, 10, 10])
    expected = [ids(file) for file in files]
    (tmp_path / "data").mkdir()
    place = Prepared(files={"train": files})
    calls = []

    def stopping(function):
        def counted(*args, **options):
            calls.append(function)
            if len(calls) == moment + 1:
                raise KeyboardInterrupt
            return function(*args, **options)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopping(Path.unlink))
        patch.setattr(Path, "replace", stopping(Path.replace))
        patch.setattr(parquet_files, "_join", stopping(parquet_files._join))
        try:
            place_files(place, tmp_path / "data", tmp_path / "building", 75_000)
            assert len(calls) <= moment
        except KeyboardInterrupt:
            pass
    place_files(place, tmp_path / "data", tmp_path / "building", 75_000)
    found = sorted((tmp_path / "data").iterdir())
    assert sum((ids(file) for file in found), []) == sum(expected, []) and len(found) == 3


def test_a_file_that_is_gone_is_named(tmp_path):
    files = write_files(tmp_path / "building", [10, 10])
    (tmp_path / "data").mkdir()
    files[1].unlink()
    (tmp_path / "building" / parquet_files.PLAN).write_text('{"train.parquet": ["0/0.parquet", "1/1.parquet"]}')
    with pytest.raises(UserError, match="building lacks 1 files of train.parquet; delete .* to prepare the corpus"):
        place_files(Prepared(files={"train": files}), tmp_path / "data", tmp_path / "building", 10**6)
