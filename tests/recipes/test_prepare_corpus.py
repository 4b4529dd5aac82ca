import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from kill_and_resume import differences
from make_corpus import add_audio, add_entry, add_speaker, children_corpus, manifest_row, small_corpus, write_manifest

from dataset_scripts import corpus_builder, prepared, shards
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus, waveforms
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

    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_OUR_CODE, tmp_path / "out", tmp_path / "cache"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {split: len(part) for split, part in rows.items()} == metrics["rows"]
    assert all(size > 100 for part in rows.values() for _, size in part)


def test_files_of_a_prepared_corpus(root, tmp_path):
    add_entry(root / "Dev" / "C", "absent.wav")
    prepare(root, tmp_path / "out", "--license=cc-by-4.0")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == {
        "README.md",
        "stage.json",
        "rejected.jsonl",
        "data",
        "data/train-00000-of-00001.parquet",
        "data/dev-00000-of-00001.parquet",
    }
    (row,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["id"], row["file"], row["reason"]) == ("C/absent", "Dev/C/absent.wav", "missing file")
    card = DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert "| train | unknown | 3 | 1 | 0.00 |" in card.text and "| missing file | 1 |" in card.text


def test_shards_are_bounded_and_complete(root, tmp_path):
    add_speaker(root, "Train", "Z", {f"{n}.wav": f"word {n}" for n in range(200)}, seconds=0.5)
    prepare(root, tmp_path / "out", "--shard_megabytes=1")
    shards = sorted((tmp_path / "out" / "data").glob("train-*"))
    assert [shard.name for shard in shards] == [
        f"train-{n:05d}-of-{len(shards):05d}.parquet" for n in range(len(shards))
    ]
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


@pytest.mark.parametrize("place", [".scratch/shards/train-00000", "data"])
def test_rows_that_decayed_before_the_run_goes_on_are_named(root, tmp_path, monkeypatch, place):
    """In their shard, or where a run that was stopped has moved them."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        write = shards.write_shards
        if place == "data":
            patch.setattr(prepared, "write_rejected", interrupt)
        else:
            patch.setattr(corpus_builder, "write_shards", lambda *args: write(*args) and interrupt())
        prepare(root, tmp_path / "out", "--num_proc=1")
    file = next((tmp_path / ".out.partial" / place).glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file.name} has another content; delete"):
        prepare(root, tmp_path / "out", "--num_proc=1", "--resume")


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def die_before(event: str, name: str) -> None:
    """Have this process killed when it, or one of its workers, is about to do `event` to a path that ends in
    `name`."""
    main_process = os.getpid()

    def watch(seen: str, args: tuple) -> None:
        if seen == event and str(args[0]).endswith(name):
            os.kill(main_process, signal.SIGKILL)
            time.sleep(0.5)  # a worker learns of it within that time

    sys.addaudithook(watch)


def prepare_and_die(event: str, name: str, *arguments) -> None:
    die_before(event, name)
    prepare(*arguments)


@pytest.mark.parametrize(
    "builder, num_proc, event, name, redone",
    [
        (
            "jsonl_manifest",
            1,
            "os.rename",
            "/.train-00003.partial",
            {"train-00003", "train-00004", "dev-00000", "dev-00001"},
        ),
        ("jsonl_manifest", 2, "os.rename", "/.train-00003.partial", None),
        ("jsonl_manifest", 1, "open", "/.dev-00001.partial/0.parquet", {"dev-00001"}),
        # While finished shards become the files of the corpus.
        ("jsonl_manifest", 1, "os.rename", "/data/.train-00000-of-00001.parquet.tmp", set()),
        ("jsonl_manifest", 1, "os.remove", "/train-00002/0.parquet", set()),
        ("jsonl_manifest", 1, "shutil.rmtree", "/.scratch", set()),
        ("speaker_json", 1, "os.rename", "/.train-00001.partial", {"train-00001", "train-00002", "dev-00000"}),
    ],
)
def test_killed_and_resumed_it_ends_as_if_it_had_never_been_killed(
    builder, num_proc, event, name, redone, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "IDS_PER_SHARD", 3)
    if builder == "speaker_json":
        source = small_corpus(tmp_path / "corpus")
        add_entry(source / "Train" / "A", "absent.wav")
        add_speaker(source, "Train", "L", {"long.wav": "many words"}, seconds=31)
    else:
        source = children_corpus(tmp_path / "corpus")
        with (source / "train.jsonl").open("a") as file:
            file.write(json.dumps(manifest_row("absent", "C_0")) + "\n{\n")
    flags = [f"--builder={builder}"] + (["--val_ratio=0.3"] if builder == "jsonl_manifest" else [])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    metrics = prepare(source, whole / "run", *flags)

    flags += [f"--num_proc={num_proc}"]
    process = multiprocessing.get_context("fork").Process(
        target=prepare_and_die, args=(event, name, source, killed / "run", *flags)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    time.sleep(1)  # workers die with their parent
    building = killed / ".run.partial" / ".scratch" / "shards"
    finished = {path.parent.name for path in building.glob("*/shard.json") if not path.parent.name.startswith(".")}
    assert finished and not (killed / "run").exists()

    written, write = [], shards.Writer.write
    monkeypatch.setattr(
        shards.Writer, "write", lambda self, folder, *rest: (written.append(folder.name), write(self, folder, *rest))
    )
    assert prepare(source, killed / "run", *flags, "--num_proc=1", "--resume") == metrics
    assert not finished & set(written)
    assert redone in (None, set(written))
    assert differences(whole / "run", killed / "run") == []
    assert not (killed / ".run.partial").exists()


def test_workers_die_with_their_parent(tmp_path, monkeypatch):
    """Else they would write into the shards of the run that goes on."""
    monkeypatch.setattr(shards, "IDS_PER_SHARD", 3)
    source = children_corpus(tmp_path / "corpus")

    def write(self, *_):
        (tmp_path / f"worker-{os.getpid()}").touch()
        time.sleep(600)

    monkeypatch.setattr(shards.Writer, "write", write)
    process = multiprocessing.get_context("fork").Process(
        target=prepare, args=(source, tmp_path / "out", "--builder=jsonl_manifest", "--num_proc=2")
    )
    process.start()
    deadline = time.time() + 30
    while len(workers := list(tmp_path.glob("worker-*"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    pids = [int(path.name.split("-")[1]) for path in workers]
    assert len(pids) == 2 and process.pid not in pids
    while any(map(runs, pids)) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, pids))


def runs(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )  # dead, but nobody asked after it
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_is_killed_stops_the_run_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "IDS_PER_SHARD", 3)

    def write(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(shards.Writer, "write", write)
    with pytest.raises(UserError, match="a worker process was killed, .*again with a smaller --num_proc"):
        prepare(children_corpus(tmp_path / "corpus"), tmp_path / "out", "--builder=jsonl_manifest", "--num_proc=2")


def test_the_number_of_workers_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "IDS_PER_SHARD", 4)
    source = children_corpus(tmp_path / "corpus")
    for number in (1, 3):
        prepare(
            source,
            tmp_path / str(number) / "run",
            "--builder=jsonl_manifest",
            "--val_ratio=0.3",
            f"--num_proc={number}",
        )
    (different,) = differences(tmp_path / "1" / "run", tmp_path / "3" / "run")
    assert different.startswith('stage.json: -   "num_proc": 1')
    corpus = load_corpus(tmp_path / "3" / "run")
    assert sum(part.num_rows for part in corpus.values()) == 18
    assert len(list((tmp_path / "3" / "run" / "data").glob("train-*"))) == 1  # of three shards


def test_children_on_the_card_and_beside_the_corpus(tmp_path):
    source = children_corpus(tmp_path / "corpus")
    add_audio(source / "audio_0", "alone")
    add_audio(source / "audio_1", "alone")
    with (source / "train.jsonl").open("a") as file:
        file.write(json.dumps(manifest_row("alone", "C_alone", "12+")) + "\n")
        file.write(json.dumps(manifest_row("absent", "C_0")) + "\n")
    metrics = prepare(
        source, tmp_path / "out", "--builder=jsonl_manifest", "--val_ratio=0.34", "--external_data", "TalkBank", "MyST"
    )
    assert metrics["rows"] == {"train": 13, "dev": 6} and metrics["rejected"] == {"missing file": 1}
    card = DatasetCard.load(tmp_path / "out" / "README.md").text
    for line in (
        "| 12+ | 1 | 0 | 1 | 0 | 0.0 | -34.0 |",
        "- External data: MyST, TalkBank",
        "| missing file | 1 |",
        "- `train.jsonl`: 20 rows, 7 speakers",
        "34.0 % of the rows of each stratum for dev, seed 42",
        "| 1 | in several folders, all copies alike; the first is taken |",
    ):
        assert line in card, line
    assert str(tmp_path) not in card
    record = json.loads((tmp_path / "out" / "splits.json").read_text())
    corpus = load_corpus(tmp_path / "out")
    assert {side: set(names) for side, names in record["speakers"].items()} == {
        side: set(rows["speaker_id"]) for side, rows in corpus.items()
    }
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["external_data"] == ["MyST", "TalkBank"]

    other = prepare(
        source,
        tmp_path / "again",
        "--builder=jsonl_manifest",
        "--split_seed=7",
        f"--split_file={tmp_path / 'out' / 'splits.json'}",
    )
    assert other["splits"]["speakers"] == record["speakers"] and other["splits"]["given_by"] == "splits.json"
    assert "Given by `splits.json`." in (tmp_path / "again" / "README.md").read_text()


def test_flags_of_a_children_corpus(tmp_path):
    source = children_corpus(tmp_path / "corpus")
    rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["speaker"] = row.pop("child_id")
        del row["orthographic_text"]
    manifest = write_manifest(tmp_path / "metadata.jsonl", rows)
    metrics = prepare_corpus.main(
        [
            "--builder=jsonl_manifest",
            f"--train-manifest={manifest}",
            f"--output_dir={tmp_path / 'out'}",
            "--val_ratio=0",
            "--audio-dirs",
            *(str(source / f"audio_{n}") for n in range(3)),
            "--fields",
            "child_id=speaker",
            "--require_text=false",
            "--num_proc=1",
        ]
    )
    assert metrics["rows"] == {"train": 18} and not metrics["rejected"]


def test_load_corpus_decodes_and_names_what_is_wrong(root, tmp_path):
    prepare(root, tmp_path / "out")
    rows = load_corpus(tmp_path / "out", "dev")
    assert [len(waveform) for waveform in waveforms(rows)] == [4800] * 3
    with pytest.raises(UserError, match="no split 'test'; it has train, dev"):
        load_corpus(tmp_path / "out", "test")
    with pytest.raises(UserError, match="not a prepared corpus .* run recipes/prepare_corpus.py"):
        load_corpus(root)
    with pytest.raises(UserError, match="there is no folder .*absent"):
        load_corpus(tmp_path / "absent")
    rows.remove_columns("group").to_parquet(tmp_path / "lacking" / "train.parquet")
    with pytest.raises(UserError, match="lacks the columns group"):
        load_corpus(tmp_path / "lacking")
    for split in ("train", "test"):
        rows.to_parquet(tmp_path / "shared" / f"{split}.parquet")
    with pytest.raises(UserError, match="speaker C of .* is in the splits"):
        load_corpus(tmp_path / "shared")
    assert set(load_corpus(tmp_path / "shared", shared_speakers=True)) == {"train", "test"}
    unknown = rows.remove_columns("speaker_id").add_column("speaker_id", ["unknown"] * len(rows))
    for split in ("train", "test"):
        unknown.to_parquet(tmp_path / "unknown" / f"{split}.parquet")
    assert set(load_corpus(tmp_path / "unknown")) == {"train", "test"}
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.parquet").write_text("x")
    with pytest.raises(UserError, match="cannot be read"):
        load_corpus(tmp_path / "damaged")


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--builder=speaker_jso"],
            "--builder: invalid choice: 'speaker_jso' .choose from 'speaker_json', 'jsonl_manifest', "
            "'segmented_audio'.",
        ),
        (["--percent=0"], "percent"),
        (["--sampel=random"], "did you mean --sampling"),
        (["--max_samples=-1"], "max_samples"),
        (["--num_proc=0"], "num_proc"),
        (["--shard_megabytes=0"], "shard_megabytes"),
        (["--val_ratio=0.2"], "--val_ratio is no option of the builder speaker_json"),
        (["--builder=jsonl_manifest", "--fields", "child_id"], "fields takes OUR_NAME=NAME_IN_FILE"),
        (["--builder=jsonl_manifest"], r"has no \*\.jsonl file; say which file is the manifest"),
    ],
)
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


def test_real_children(corpora, tmp_path):
    metrics = prepare(corpora / "children", tmp_path / "out", "--builder=jsonl_manifest", "--val_ratio=0.3")
    assert sum(metrics["rows"].values()) == 576 and metrics["rows"]["dev"] >= 150
    assert not metrics["rejected"] and not metrics["remarks"]
    assert all(abs(row["deviation"]) < 0.05 for row in metrics["splits"]["strata"])


def test_real_corpus(corpora, tmp_path):
    metrics = prepare(corpora / "speakers", tmp_path / "out", "--sampling=stratified", "--max_samples=20")
    assert metrics["rows"] == {"train": 20, "dev": 20}
    assert {row["group"] for row in metrics["groups"] if row["split"] == "train"} == {
        "L2 adult",
        "L2 child",
        "Narrowband digits",
        "Studio prompts",
    }
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("builder", ["speaker_json", "jsonl_manifest"])
def test_what_else_lies_below_the_data_repeats_nothing_but_other_audio_does(tmp_path, builder):
    root = (small_corpus if builder == "speaker_json" else children_corpus)(tmp_path / "corpus")
    words = (root, root / "runs" / "out", "--resume", f"--builder={builder}")
    prepare(*words)
    (root / "runs" / "out" / "witness").touch()
    (root / "runs" / "train.log").touch()
    prepare(*words)
    assert (root / "runs" / "out" / "witness").exists()
    audio = next(path for path in sorted(root.rglob("*")) if path.suffix in (".wav", ".flac"))
    shutil.copy(next(path for path in sorted(root.rglob(f"*{audio.suffix}")) if path != audio), audio)
    prepare(*words)
    assert not (root / "runs" / "out" / "witness").exists()


def test_markup_is_of_one_builder(tmp_path):
    with pytest.raises(UserError, match="--disfluencies is no option of the builder jsonl_manifest"):
        prepare(
            children_corpus(tmp_path / "corpus"), tmp_path / "out", "--builder=jsonl_manifest", "--disfluencies=drop"
        )
