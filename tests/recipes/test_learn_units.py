"""The recipe learn_units: what it writes, stops at any moment, encoders, mistakes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
import torch
from make_corpus import damaged_copy
from paths import ROOT
from tiny_ssl import CONFIGS, save_tiny_ssl
from tiny_units import write_tiny_segments
from transformers import BertConfig, BertModel

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime import estimates
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus, waveforms
from hf_components.units.learning import learner, writing
from hf_components.units.learning.features import FeatureStream
from hf_components.units.learning.kmeans import MiniBatchKMeans
from hf_components.units.table import read_units
from recipes import learn_units

pytestmark = pytest.mark.integration

RESULTS = (
    "units.parquet",
    "units.json",
    "all_units_for_bpe.txt",
    "report.json",
    "model/model.safetensors",
    "model/config.json",
)


@pytest.fixture(scope="module")
def segments(tmp_path_factory) -> Path:
    return write_tiny_segments(tmp_path_factory.mktemp("corpus") / "segments", train=8, dev=3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_tiny_ssl(tmp_path_factory.mktemp("ssl") / "tiny-ssl")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(learner, "SAMPLE", 200)
    monkeypatch.setattr(writing, "PART_BATCHES", 2)


def command(segments: Path, output_dir: Path, *more: str) -> list[str]:
    return [
        "--config",
        str(ROOT / "recipes" / "configs" / "learn_units" / "quick.yaml"),
        "--corpus",
        str(segments),
        "--output_dir",
        str(output_dir),
        "--num_units=10",
        "--update_seconds=6",
        "--batch_seconds=5",
        *more,
    ]


def rename(corpus: Path) -> None:
    """Else `load_dataset` would serve it from its cache of the corpus that it was copied from."""
    card = corpus / "README.md"
    card.write_text(card.read_text().replace("description: ", f"description: {corpus} "))


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS]


@pytest.fixture(scope="module")
def whole(segments, tmp_path_factory) -> Path:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "units"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "SAMPLE", 200)
        patch.setattr(writing, "PART_BATCHES", 2)
        learn_units.main(command(segments, folder))
    return folder


def test_writes_the_units_of_every_segment(segments, whole):
    assert {path.name for path in whole.iterdir()} == {
        "model",
        "units.parquet",
        "units.json",
        "all_units_for_bpe.txt",
        "report.json",
        "usage.png",
        "stage.json",
    }
    table, model = read_units(whole), AcousticUnitsModel.from_pretrained(whole / "model")
    assert table.identity == model.identity() == json.loads((whole / "report.json").read_text())["units"]
    corpus = load_corpus(segments)
    rows = table.rows.to_pylist()
    assert [row["id"] for row in rows] == corpus["train"]["id"][:] + corpus["dev"]["id"][:]
    for row, segment in zip(rows, [*corpus["train"], *corpus["dev"]], strict=True):
        assert {key: row[key] for key in ("source_file", "start", "speaker_id", "duration")} == {
            key: segment[key] for key in ("source_file", "start", "speaker_id", "duration")
        }
        alone = model.encode(waveforms([segment])[0])
        runs = model.encode(waveforms([segment])[0], deduplicate=True)
        assert row["units"] == alone.units.tolist()
        assert [row[key] for key in ("deduplicated", "durations", "start_times")] == [value.tolist() for value in runs]
    assert json.loads((whole / "units.json").read_text()) == rows
    assert (whole / "all_units_for_bpe.txt").read_text().splitlines() == [
        " ".join(map(str, row["deduplicated"])) for row in rows if row["split"] == "train"
    ]


def test_report_counts_what_the_table_holds(whole):
    report, table = json.loads((whole / "report.json").read_text()), read_units(whole)
    for split, found in report["splits"].items():
        units = np.concatenate(table.of_split(split)["units"].to_pylist())
        counts = np.bincount(units, minlength=10)
        assert found["usage"] == counts.tolist() and found["frames"] == len(units)
        assert found["dead_units"] == np.flatnonzero(counts == 0).tolist()
        shares = counts[counts > 0] / len(units)
        assert found["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
        assert found["perplexity"] == pytest.approx(2 ** found["entropy"])
        assert found["seconds"] == pytest.approx(sum(table.of_split(split)["duration"].to_pylist()))
    assert {key: report[key] for key in report["splits"]["train"]} == report["splits"]["train"]
    assert report["passes"][0] > report["passes"][-1] and 2 < len(report["passes"]) == len(report["revived"])
    assert 0.8 * report["passes"][-1] < report["inertia_per_frame"] < report["passes"][0]


MOMENTS = [
    (FeatureStream, "_keep", 3),
    (MiniBatchKMeans, "add", 9),
    (MiniBatchKMeans, "end_pass", 2),
    (MiniBatchKMeans, "add", 31),
    (writing, "write_part", 2),
    (writing, "join_parts", 1),
    (AcousticUnitsModel, "save_pretrained", 1),
    (learn_units, "plot_usage", 1),
    (learn_units, "finish", 1),
]


@pytest.mark.parametrize(("owner", "name", "number"), MOMENTS)
def test_a_stopped_run_goes_on_to_the_same_bytes(segments, whole, tmp_path, monkeypatch, owner, name, number):
    monkeypatch.setattr(learner, "CHECKPOINT_SECONDS", -1.0)  # after every batch
    function, calls = getattr(owner, name), []

    def stopping(*args, **options):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            learn_units.main(command(segments, tmp_path / "units"))
    assert not (tmp_path / "units").exists()
    read = []
    with monkeypatch.context() as patch:
        patch.setattr(
            FeatureStream,
            "_keep",
            lambda stream, batch, features: read.append(batch.number) or keep(stream, batch, features),
        )
        learn_units.main(command(segments, tmp_path / "units", "--resume"))
    assert contents(tmp_path / "units") == contents(whole)
    assert (name == "_keep") == bool(read)  # no file is read twice for what is there


def test_the_report_comes_after_all_else_is_on_the_disk(segments, tmp_path, monkeypatch):
    """A power cut may take a model whose report stays; a next run would not make it again."""
    done = []
    for name in ("sync_folder", "write_json"):
        function = getattr(learn_units, name)
        monkeypatch.setattr(
            learn_units, name, lambda *args, of=name, call=function: done.append((of, args[0].name)) or call(*args)
        )
    learn_units.main(command(segments, tmp_path / "units"))
    assert done.index(("sync_folder", ".units.partial")) == done.index(("write_json", "report.json")) - 1


keep = FeatureStream._keep


def test_progress_names_the_files_of_the_pass(segments, tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "CHECKPOINT_SECONDS", -1.0)
    seen = []
    monkeypatch.setattr(learner, "write_json", lambda file, progress: seen.append(progress))
    learn_units.main(command(segments, tmp_path / "units", "--passes=1"))
    names = load_corpus(segments)["train"]["id"][:]
    assert [progress["batches"] for progress in seen] == list(range(1, seen[-1]["of"] + 1))
    assert all(len(set(progress["processed_files"])) == len(progress["processed_files"]) for progress in seen)
    assert sorted(seen[-1]["processed_files"]) == sorted(names)


def test_features_that_the_disk_cannot_hold_are_warned_of(segments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimates, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=1000)))
    learn_units.main(command(segments, tmp_path / "none", "--cache_gib=0"))
    assert "keeping features" not in capsys.readouterr().err
    learn_units.main(command(segments, tmp_path / "kept"))
    told = capsys.readouterr().err
    assert "keeping features needs about 0.2 MiB" in told and "lower --cache_gib" in told


def test_without_kept_features_the_result_is_the_same(segments, whole, tmp_path):
    learn_units.main(command(segments, tmp_path / "units", "--cache_gib=0"))
    assert contents(tmp_path / "units") == contents(whole)


def test_learns_from_train_alone(segments, whole, tmp_path):
    shutil.copytree(segments, tmp_path / "segments")
    dev = tmp_path / "segments" / "data" / "dev-00000.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(dev).slice(0, 1), dev)
    rename(tmp_path / "segments")
    report = learn_units.main(command(tmp_path / "segments", tmp_path / "units"))
    assert report["units"] == json.loads((whole / "report.json").read_text())["units"]
    assert report["splits"]["dev"]["segments"] == 1


@pytest.mark.parametrize("name", ["wav2vec2-large", "wav2vec2-base", "hubert-large", "wavlm-large", "w2v-bert"])
def test_learns_from_a_layer_of_an_encoder(segments, tmp_path, name):
    checkpoint = save_tiny_ssl(tmp_path / "tiny-ssl", CONFIGS[name])
    report = learn_units.main(
        command(segments, tmp_path / "units", f"--model={checkpoint}", "--layer=2", "--passes=3")
    )
    assert [report["units"][key] for key in ("encoder", "layer", "num_units")] == ["tiny-ssl", 2, 10]
    assert report["inertia_per_frame"] < report["passes"][0]
    model = AcousticUnitsModel.from_pretrained(tmp_path / "units" / "model")
    assert model.identity() == report["units"] and len(model.encoder.encoder.layers) == 2
    row = read_units(tmp_path / "units").rows.slice(0, 1).to_pylist()[0]
    clip = waveforms(load_corpus(segments)["train"].select([0]))[0]
    assert np.mean(np.array(row["units"]) == model.encode(clip).units.numpy()) > 0.99


def test_prepared_corpora_are_their_own_sources(segments, tmp_path):
    shutil.copytree(segments, tmp_path / "corpus")
    for split in ("train", "dev"):
        file = tmp_path / "corpus" / "data" / f"{split}-00000.parquet"
        table = pyarrow.parquet.read_table(file).drop_columns(["source_file", "start", "end"])
        pyarrow.parquet.write_table(table.replace_schema_metadata(None), file)
    rename(tmp_path / "corpus")
    learn_units.main(command(tmp_path / "corpus", tmp_path / "units", "--passes=1"))
    row = read_units(tmp_path / "units").rows.slice(0, 1).to_pylist()[0]
    assert (row["source_file"], row["start"]) == ("train_0", 0.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_units=1"], "--num_units must be at least 2, got 1"),
        (["--num_units=5000"], "5000 units need as many frames of 20 ms, but the split to learn from has"),
        (["--layer=3"], "--model mfcc cannot be used: .* no layers, got layer 3"),
        (["--model=nowhere/nothing", "--layer=3"], "--model nowhere/nothing cannot be used"),
        (["--cache_gib=nan"], "--cache_gib must be at least 0, got nan"),
        (["--batch_seconds=0"], "--batch_seconds must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(segments, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        learn_units.main(command(segments, tmp_path / "units", *flags))
    assert not (tmp_path / "units").exists()


def test_layers_and_kinds_of_encoders_are_checked(segments, encoder, tmp_path):
    with pytest.raises(UserError, match=r"`layer` must lie in \[1, 3\] for tiny-ssl, got 14"):
        learn_units.main(command(segments, tmp_path / "units", f"--model={encoder}"))
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="whisper, got bert of type bert"):
        learn_units.main(command(segments, tmp_path / "units", f"--model={tmp_path / 'bert'}"))


def test_a_segment_shorter_than_a_frame_is_named(tmp_path):
    short = write_tiny_segments(tmp_path / "short", train=3, dev=1, seconds=0.02)
    with pytest.raises(UserError, match="train_0 of train is 20 ms long, but a unit needs 25 ms"):
        learn_units.main(command(short, tmp_path / "units"))


def test_features_that_are_not_finite_name_the_segment(segments, tmp_path, monkeypatch):
    features = AcousticUnitsModel.features

    def broken(model, *args):
        found, frames = features(model, *args)
        return torch.where(frames[:, None, None] == frames.max(), torch.nan, found), frames

    monkeypatch.setattr(AcousticUnitsModel, "features", broken)
    with pytest.raises(UserError, match=r"train_\d: the features of mfcc are not finite"):
        learn_units.main(command(segments, tmp_path / "units"))


def test_an_unreadable_segment_stops_it_or_is_left_out(segments, encoder, tmp_path):
    name = load_corpus(segments, "dev", shared_speakers=True)["id"][2]
    corpus = damaged_copy(segments, tmp_path / "damaged", [name])
    words = [f"--model={encoder}", "--layer=2"]
    with pytest.raises(UserError, match=f"^{name}: .* --unreadable_rows reject$"):
        learn_units.main(command(corpus, tmp_path / "units", *words))
    learn_units.main(command(corpus, tmp_path / "units", *words, "--unreadable_rows=reject"))
    assert json.loads((tmp_path / "units" / "rejected.jsonl").read_text())["id"] == name
    assert len(read_units(tmp_path / "units").rows) == 10
