"""What a corpus must hold is checked once, where it is loaded; a file that was replaced is noticed."""

import math
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from make_corpus import children_corpus
from tiny_speech import rows

from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import run_stage
from hf_components.speech.corpus import load_corpus
from recipes import prepare_corpus

pytestmark = pytest.mark.unit
AUDIO = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*.parquet}
---
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def shards():
    frame = rows(6).to_pandas()
    table = put(
        pyarrow.Table.from_pandas(frame, preserve_index=False), "audio", pyarrow.array(frame["audio"].tolist(), AUDIO)
    )
    return table.slice(0, 3), table.slice(3)


def put(table: pyarrow.Table, column: str, values) -> pyarrow.Table:
    return table.set_column(table.column_names.index(column), column, values)


def write(folder: Path, *tables: pyarrow.Table) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for number, table in enumerate(tables):
        pyarrow.parquet.write_table(table, folder / "data" / f"train-{number:05d}-of-{len(tables):05d}.parquet")
    return folder


def test_a_good_corpus_is_loaded(tmp_path, shards):
    assert len(load_corpus(write(tmp_path / "corpus", *shards), "train")) == 6


@pytest.mark.parametrize("column", ["id", "audio", "text", "speaker_id", "group", "duration"])
def test_a_column_that_one_shard_lacks_is_named(tmp_path, shards, column):
    folder = write(tmp_path / "corpus", shards[0], shards[1].drop_columns([column]))
    with pytest.raises(
        UserError, match=f"train-00001.* differs from train-00000.* in the column {column} .missing, not"
    ):
        load_corpus(folder)


BAD = {
    "text_null": ("text", pyarrow.array(["a", None, "b"]), "row .*: every row has no text"),
    "id_null": ("id", pyarrow.array(["x", None, "y"]), "has no id"),
    "group_null": (
        "group",
        pyarrow.array([None] * 3, pyarrow.string()),
        r"\(and 2 more rows\): every row has no group",
    ),
    "duration_null": ("duration", pyarrow.array([1.0, None, 1.0]), "has no duration"),
    "duration_nan": ("duration", pyarrow.array([1.0, math.nan, 1.0]), "must have a duration above 0 s"),
    "duration_infinite": ("duration", pyarrow.array([1.0, math.inf, 1.0]), "must have a duration above 0 s"),
    "duration_negative": ("duration", pyarrow.array([1.0, -1.0, 1.0]), "must have a duration above 0 s"),
    "duration_text": ("duration", pyarrow.array(["long"] * 3), "column duration .text, not number"),
    "id_number": ("id", pyarrow.array([1, 2, 3]), "column id .number, not text"),
    "audio_null": ("audio", pyarrow.array([None] * 3, AUDIO), "must hold its recording"),
    "audio_of_nothing": (
        "audio",
        pyarrow.array([{"bytes": None, "path": None}] * 3, AUDIO),
        "must hold its recording",
    ),
    "audio_text": ("audio", pyarrow.array(["a.wav"] * 3), "column audio"),
}


@pytest.mark.parametrize(("column", "values", "message"), BAD.values(), ids=BAD)
def test_a_cell_that_no_recipe_can_use_is_named(tmp_path, shards, column, values, message):
    folder = write(tmp_path / "corpus", shards[0], put(shards[1], column, values))
    with pytest.raises(UserError, match=message) as told:
        load_corpus(folder)
    assert str(folder) in str(told.value)


@pytest.mark.parametrize("column", ["id", "text", "speaker_id", "group", "duration", "audio"])
def test_a_column_of_another_type_in_all_shards_is_named(tmp_path, shards, column):
    values = pyarrow.array(["x"] * 3) if column in ("duration", "audio") else pyarrow.array([1, 2, 3])
    with pytest.raises(UserError, match=f"in the column {column}, got"):
        load_corpus(write(tmp_path / "corpus", put(shards[0], column, values)))


def test_an_id_that_is_there_twice_is_named(tmp_path, shards):
    with pytest.raises(UserError, match="has the id .* twice"):
        load_corpus(write(tmp_path / "corpus", shards[0], put(shards[1], "id", shards[0]["id"])))


def test_recordings_of_this_machine_are_not_read(tmp_path, shards):
    """A table of somebody else could name any file."""
    soundfile.write(tmp_path / "private.wav", np.full(16_000, 0.5), 16_000)
    paths = pyarrow.array([{"bytes": None, "path": str(tmp_path / "private.wav")}] * 3, AUDIO)
    with pytest.raises(UserError, match="must hold its recording, and not only a path"):
        load_corpus(write(tmp_path / "corpus", shards[0], put(shards[1], "audio", paths)))


@pytest.mark.parametrize("content", [b"", b"<html>", b"PAR1", None], ids=["empty", "web_page", "magic", "cut"])
def test_a_file_that_is_no_table_is_named(tmp_path, shards, content):
    folder = write(tmp_path / "corpus", *shards)
    file = folder / "data" / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match="train-00001-of-00002.parquet cannot be read"):
        load_corpus(folder)


@pytest.mark.parametrize(
    "card", [CARD.encode() + b"\xa3", CARD.replace("split: train,", "split: [,").encode(), b"---\nconfigs: 7\n---\n"]
)
def test_a_damaged_card_is_named(tmp_path, shards, card):
    folder = write(tmp_path / "corpus", *shards)
    (folder / "README.md").write_bytes(card)
    with pytest.raises(UserError, match=r"corpus cannot be read: .*; prepare it again"):
        load_corpus(folder)


@pytest.fixture
def prepared(tmp_path):
    manifest = children_corpus(tmp_path / "children") / "train.jsonl"
    config = "recipes/configs/prepare_corpus/children.yaml"
    words = ["--config", config, "--manifest", str(manifest), "--output_dir", str(tmp_path / "prepared")]
    prepare_corpus.main([*words, "--num_proc", "1"])
    return tmp_path / "prepared"


def change_texts(folder: Path, keep_time: bool = False) -> None:
    file = next((folder / "data").glob("train-*.parquet"))
    stat = file.stat()
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(
        put(table, "text", pyarrow.array([f"new {text}" for text in table["text"].to_pylist()])), file
    )
    if keep_time:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.integration
@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_that_was_replaced_is_noticed(prepared, tmp_path, keep_time, is_published):
    if is_published:
        (prepared / "stage.json").unlink()  # a copy from the Hub has a card, but no completion record

    def train(folder):
        return {"texts": load_corpus(prepared, "train")["text"][:]}

    def resume() -> list[str]:
        return run_stage(tmp_path / "trained", train, config={}, inputs=[prepared], resume=True)["texts"]

    before = resume()
    change_texts(prepared, keep_time)
    for read in (lambda: load_corpus(prepared), resume):
        with pytest.raises(UserError, match=f"{prepared} was changed after it was"):
            read()
    # The user's word that it is meant: then the new rows are read, and not those of a cache.
    (prepared / "stage.json").unlink(missing_ok=True)
    card = prepared / "README.md"
    card.write_text("\n".join(line for line in card.read_text().split("\n") if "description: content" not in line))
    assert resume() == [f"new {text}" for text in before] == load_corpus(prepared, "train")["text"][:]
    change_texts(prepared)
    assert load_corpus(prepared, "train")["text"][:] == [f"new new {text}" for text in before]
