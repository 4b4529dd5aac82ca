import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import DatasetCard
from make_corpus import add_entry, add_speaker, small_corpus

from hf_components.corpus import load_corpus, waveforms
from hf_components.errors import UserError
from recipes import prepare_corpus

pytestmark = pytest.mark.integration

WITHOUT_OUR_CODE = """
import json, sys
from datasets import Audio, load_dataset
corpus = load_dataset(sys.argv[1], cache_dir=sys.argv[2])
assert corpus["train"].features["audio"] == Audio(sampling_rate=16000)
rows = {split: rows.cast_column("audio", Audio(decode=False)) for split, rows in corpus.items()}
assert not [name for name in sys.modules if name.startswith(("hf_components", "dataset_scripts"))]
print(json.dumps({split: [[row["id"], len(row["audio"]["bytes"])] for row in part] for split, part in rows.items()}))
"""


@pytest.fixture
def root(tmp_path):
    return small_corpus(tmp_path / "corpus")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def prepare(root, output, *flags):
    return prepare_corpus.main([f"--data_dir={root}", f"--output_dir={output}", "--num_proc=1", *flags])


def test_prepared_corpus_loads_in_a_fresh_process_without_our_code(root, tmp_path):
    add_entry(root / "Train" / "A", "absent.wav")
    add_speaker(root, "Train", "L", {"long.wav": "many words"}, seconds=31)
    metrics = prepare(root, tmp_path / "out", "--num_proc=2", "--license=cc-by-4.0", "--language=en")
    assert metrics["rows"] == {"train": 6, "train_long": 1, "dev": 3}
    assert metrics["rejected"] == {"missing file": 1}

    done = subprocess.run([sys.executable, "-I", "-c", WITHOUT_OUR_CODE, tmp_path / "out", tmp_path / "cache"],
                          cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {split: len(part) for split, part in rows.items()} == metrics["rows"]
    assert all(size > 100 for part in rows.values() for _, size in part)


def test_files_of_a_prepared_corpus(root, tmp_path):
    add_entry(root / "Dev" / "C", "absent.wav")
    prepare(root, tmp_path / "out", "--license=cc-by-4.0")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == {
        "README.md", "stage.json", "rejected.jsonl", "data", "data/train-00000-of-00001.parquet",
        "data/dev-00000-of-00001.parquet"}
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["id"], row["file"], row["reason"]) == ("C/absent", "Dev/C/absent.wav", "missing file")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "| train | unknown | 3 | 1 | 0.00 |" in card.text and "| missing file | 1 |" in card.text


def test_shards_are_bounded_and_complete(root, tmp_path):
    add_speaker(root, "Train", "Z", {f"{n}.wav": f"word {n}" for n in range(200)}, seconds=0.5)
    prepare(root, tmp_path / "out", "--shard_megabytes=1")
    shards = sorted((tmp_path / "out" / "data").glob("train-*"))
    assert [shard.name for shard in shards] == [f"train-{n:05d}-of-{len(shards):05d}.parquet" for n in range(len(shards))]
    assert len(shards) > 1
    assert load_corpus(tmp_path / "out", "train").num_rows == 206


def test_a_split_whose_audio_is_all_bad_is_left_out(root, tmp_path):
    for path in (root / "Dev").rglob("*.wav"):
        os.truncate(path, 1000)
    metrics = prepare(root, tmp_path / "out")
    assert metrics["rows"] == {"train": 6}
    assert metrics["rejected"] == {"truncated audio": 3}
    assert list(load_corpus(tmp_path / "out")) == ["train"]
    for path in (root / "Train").rglob("*.wav"):
        os.truncate(path, 1000)
    with pytest.raises(UserError, match="no usable utterance: 9 truncated audio; for example .*wav: header promises"):
        prepare(root, tmp_path / "none")


def test_resume_skips_unchanged_and_notices_changed_data(root, tmp_path):
    prepare(root, tmp_path / "out")
    (tmp_path / "out" / "witness").touch()
    prepare(root, tmp_path / "out", "--resume", "--num_proc=2")
    assert (tmp_path / "out" / "witness").exists()
    assert load_corpus(tmp_path / "out", "dev")["text"][0] == "Sentence 0 of C."
    manifest = root / "Dev" / "C" / "C.json"
    manifest.write_text(manifest.read_text().replace("Sentence 0", "Sentence 9"))
    prepare(root, tmp_path / "out", "--resume")
    assert not (tmp_path / "out" / "witness").exists()
    # The same place and size: `load_dataset` on its own would answer from its cache.
    assert load_corpus(tmp_path / "out", "dev")["text"][0] == "Sentence 9 of C."


def test_load_corpus_decodes_and_names_what_is_wrong(root, tmp_path):
    prepare(root, tmp_path / "out")
    rows = load_corpus(tmp_path / "out", "dev")
    assert [len(waveform) for waveform in waveforms(rows)] == [4800] * 3
    with pytest.raises(UserError, match="no split 'test'; it has train, dev"):
        load_corpus(tmp_path / "out", "test")
    with pytest.raises(UserError, match="not a prepared corpus .* run recipes/prepare_corpus.py"):
        load_corpus(root)
    with pytest.raises(UserError, match="neither a folder nor a data set"):
        load_corpus(tmp_path / "absent")
    rows.remove_columns("group").to_parquet(tmp_path / "lacking" / "train.parquet")
    with pytest.raises(UserError, match="lacks the columns group"):
        load_corpus(tmp_path / "lacking")
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / "shared" / f"{split}.parquet")
    with pytest.raises(UserError, match="speaker C of .* is in the splits"):
        load_corpus(tmp_path / "shared")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.parquet").write_text("x")
    with pytest.raises(UserError, match="cannot be read"):
        load_corpus(tmp_path / "damaged")


@pytest.mark.parametrize("flags, message", [
    (["--builder=speaker_jso"], "builder must be one of speaker_json, got 'speaker_jso'"), (["--percent=0"], "percent"),
    (["--sampel=random"], "did you mean --sampling"), (["--max_samples=-1"], "max_samples"),
    (["--num_proc=0"], "num_proc"), (["--shard_megabytes=0"], "shard_megabytes"),
])
def test_wrong_flags(root, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "out", *flags)


def test_output_folder_that_cannot_be_written(root, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "out", "/proc/out"):
        with pytest.raises(UserError, match="cannot write to"):
            prepare(root, output)


def test_source_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="data_dir must be a folder"):
        prepare(tmp_path / "absent", tmp_path / "out")


def test_real_corpus(corpora, tmp_path):
    metrics = prepare(corpora / "speakers", tmp_path / "out", "--sampling=stratified", "--max_samples=20")
    assert metrics["rows"] == {"train": 20, "dev": 20}
    assert {row["group"] for row in metrics["groups"] if row["split"] == "train"} == {
        "L2 adult", "L2 child", "Narrowband digits", "Studio prompts"}
    shutil.rmtree(tmp_path / "out")
