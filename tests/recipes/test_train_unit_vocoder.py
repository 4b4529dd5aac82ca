"""The recipe train_unit_vocoder on a tiny corpus of made-up units."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from make_corpus import damaged_copy
from paths import ROOT
from safetensors.torch import load_file
from tiny_units import write_tiny_segments, write_tiny_units
from transformers import AutoModel

from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from hf_components.units.table import read_units
from recipes import train_unit_vocoder

pytestmark = pytest.mark.integration
KILLED = """
import os, signal, sys
from recipes import train_unit_vocoder
def kill(event, args):
    name = str(args[0]) if event == "open" else ""
    if ".checkpoint-2.tmp" in name and name.endswith(".history.json.tmp"):  # torch opens its files unseen
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
train_unit_vocoder.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_units(folder / "units", write_tiny_segments(folder / "segments", train=3, dev=2))
    return folder


def test_voices_of_dev_must_be_in_train(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(train_unit_vocoder, "run_stage", lambda *_, **__: pytest.fail("the training starts"))
    with pytest.raises(UserError, match="dev_speaker_0 is in dev of .* and not in train; .* --split_by recording"):
        train_unit_vocoder.main(command(inputs, tmp_path / "out", "--speaker_embedding"))


def command(inputs: Path, out: Path, *more: str) -> list[str]:
    return [
        "--corpus",
        str(inputs / "segments"),
        "--units_dir",
        str(inputs / "units"),
        "--output_dir",
        str(out),
        "--head=istft",
        "--hidden_size=16",
        "--num_layers=1",
        "--epochs=3",
        "--samples_per_epoch=4",
        "--batch_size=2",
        "--crop-seconds=0.5",
        "--validation_crops=2",
        "--adversarial_from_epoch=3",
        "--period_channels=1",
        "--resolution_channels=2",
        "--lr=1e-3",
        "--max_samples=1",
        "--save_every=2",
        *more,
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden_size=0"], "--hidden_size must be at least 1, got 0"),
        (["--num_layers=0"], "--num_layers must be at least 1, got 0"),
        (
            ["--head=hifigan", "--upsample_initial_channel=31"],
            "`upsample_initial_channel` must be at least 32, got 31",
        ),
        (["--report_to=foo"], "--report_to must be one of tensorboard, .* or none, got 'foo'"),
        (["--report_to=nowhere"], "--report_to must be one of"),
    ],
)
def test_mistakes_in_flags_are_named_before_any_work(inputs, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train_unit_vocoder.main(command(inputs, tmp_path / "out", *flags))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "vocoder"
    return out, train_unit_vocoder.main(command(inputs, out))


def test_what_a_vocoder_leaves(inputs, whole):
    out, metrics = whole
    assert {path.name for path in out.iterdir()} == {
        "model",
        "models",
        "samples",
        "checkpoints",
        "training_log.json",
        "curves.png",
        "adversarial.png",
        "logs",
        "stage.json",
    }
    log = json.loads((out / "training_log.json").read_text())
    assert [entry["epoch"] for entry in log] == [1, 2, 3] and metrics["epochs"] == 3
    assert metrics["mel_loss"] == min(entry["validation_mel_loss"] for entry in log) < metrics["mel_loss_first_epoch"]
    assert metrics["mel_loss_ratio"] == metrics["mel_loss"] / metrics["mel_loss_first_epoch"]
    (sample,) = (out / "samples" / "original").iterdir()
    original, rate = soundfile.read(sample)
    for name in ("epoch_0002", "final"):
        spoken, _ = soundfile.read(out / "samples" / name / sample.name)
        assert (
            rate == 16_000
            and len(spoken) == len(original)
            and (out / "samples" / name / f"{sample.stem}.png").exists()
        )
    for folder in ("model", "models/epoch_0002"):
        assert not any("discriminator" in path.name for path in (out / folder).iterdir())
        model = AutoModel.from_pretrained(out / folder, trust_remote_code=True)
        model.require_units(read_units(inputs / "units").identity)
    assert list((out / "logs").rglob("events*"))


def test_interrupted_after_an_epoch_it_ends_with_the_same_model(inputs, whole, tmp_path, monkeypatch):
    write_log = train_unit_vocoder.write_log

    def die(folder, history, plot):
        if len(history) == 3:
            raise KeyboardInterrupt
        write_log(folder, history, plot)

    monkeypatch.setattr(train_unit_vocoder, "write_log", die)
    with pytest.raises(KeyboardInterrupt):
        train_unit_vocoder.main(command(inputs, tmp_path / "vocoder", "--resume"))
    monkeypatch.undo()
    metrics = train_unit_vocoder.main(command(inputs, tmp_path / "vocoder", "--resume"))
    assert_same(tmp_path / "vocoder", metrics, *whole)
    assert train_unit_vocoder.main(command(inputs, tmp_path / "vocoder", "--resume")) == metrics  # complete, skipped


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(inputs, whole, tmp_path):
    argv = command(inputs, tmp_path / "vocoder")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *argv], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    names = {path.name for path in (tmp_path / ".vocoder.partial" / "checkpoints").iterdir()}
    assert names == {"checkpoint-1", ".checkpoint-2.tmp"}
    assert_same(tmp_path / "vocoder", train_unit_vocoder.main([*argv, "--resume"]), *whole)


def assert_same(out: Path, metrics: dict, whole: Path, expected: dict) -> None:
    assert metrics == expected
    for file in ("model/model.safetensors", "models/epoch_0002/model.safetensors", "training_log.json"):
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    for file in (whole / "samples").rglob("*.wav"):
        assert (out / "samples" / file.relative_to(whole / "samples")).read_bytes() == file.read_bytes(), file
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_hifigan_without_plots_until_asked_for(inputs, tmp_path, monkeypatch):
    out = tmp_path / "vocoder"
    flags = ("--no_plot", "--report_to=none", "--adversarial_from_epoch=9", "--epochs=1", "--save_every=1")
    words = command(inputs, out, *flags, "--predict_durations", "--head=hifigan", "--upsample_initial_channel=32")
    train_unit_vocoder.main(words)
    assert not list(out.rglob("*.png")) and not (out / "logs").exists()
    monkeypatch.setattr(train_unit_vocoder, "produce", None)  # calling it again would fail
    train_unit_vocoder.main([word for word in words if word != "--no_plot"])
    assert {path.name for path in out.glob("*.png")} == {"curves.png"} and list(out.glob("samples/final/*.png"))
    final, saved = (load_file(out / folder / "model.safetensors") for folder in ("model", "models/epoch_0001"))
    assert not any("parametrizations" in name for name in final)  # weight normalisation is of training alone
    assert final.keys() == saved.keys() and all(torch.equal(saved[name], final[name]) for name in final)
    assert AutoModel.from_pretrained(out / "model", trust_remote_code=True).config.predict_durations


@pytest.mark.parametrize(
    "seconds, rule", [("0.001", "at least 0.1"), ("-1", "at least 0.1"), ("nan", "at least 0.1"), ("inf", "finite")]
)
def test_crops_must_have_a_length(inputs, tmp_path, seconds, rule):
    with pytest.raises(UserError, match=f"crop_seconds must be {rule}, got"):
        train_unit_vocoder.main(command(inputs, tmp_path / "vocoder", f"--crop-seconds={seconds}"))


def test_the_shortest_crops_train(inputs, tmp_path):
    metrics = train_unit_vocoder.main(
        command(
            inputs,
            tmp_path / "vocoder",
            "--crop-seconds=0.1",
            "--epochs=1",
            "--adversarial_from_epoch=1",
            "--plot=false",
            "--report_to=none",
        )
    )
    assert metrics["epochs"] == 1


def test_units_of_another_corpus_are_refused(inputs, tmp_path):
    other = write_tiny_segments(tmp_path / "segments", train=3, dev=2, seconds=2.5)
    with pytest.raises(UserError, match="run recipes/learn_units.py again"):
        train_unit_vocoder.main(["--corpus", str(other), *command(inputs, tmp_path / "vocoder")[2:]])


def test_an_unreadable_segment_stops_it_or_is_left_out(inputs, tmp_path):
    name = load_corpus(inputs / "segments", "train", shared_speakers=True)["id"][1]
    corpus = damaged_copy(inputs / "segments", tmp_path / "damaged", [name])
    words = ["--crop_seconds=0.3", f"--corpus={corpus}", "--samples_per_epoch=30", "--max_samples=0"]
    with pytest.raises(UserError, match=f"^{name}: .* --unreadable_rows reject$"):
        train_unit_vocoder.main(command(inputs, tmp_path / "out", *words))
    metrics = train_unit_vocoder.main(command(inputs, tmp_path / "out", *words, "--unreadable_rows=reject"))
    assert metrics["segments"] == 2
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["id"] == name
