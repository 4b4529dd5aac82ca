"""Two processes over gloo leave what one does, in every recipe; one that is killed ends the run, which can be
resumed."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import every_recipe
import numpy as np
import pytest
import soundfile
from every_recipe import flags_of, write_sources
from hub_server import USER, HubServer
from kill_and_resume import timeless
from paths import ROOT
from safetensors.torch import load_file
from tiny_speech import save_tiny_whisper, speaker_folder

ALL = list(flags_of(Path(), Path(), Path(), 2))
# Of these every figure and weight is that of one process but for rounding; of all others every byte.
ROUNDED = {
    "pretrain_experts",
    "train_moe_whisper",
    "finetune_asr",
    "finetune_whisper",
    "distil_moe_whisper",
    "train_demo_recogniser",
    "finetune_wav2vec2_lora",
    "train_unit_vocoder",
    "benchmark_asr",
    "merge_moe_whisper",  # the last two: gates
    "cross_validate",
    *(name for name in ALL if name.startswith("run_")),
}
# How and where a run was made, not what it made.
ABOUT = {
    "identity",
    "config",
    "sources",
    "fingerprint",
    "inputs",
    "environment",
    "processes",
    "train_batch_size",
    "seconds_to_load",
    "seconds_per_voice",
    "slowest_seconds",
    "seconds_per_transcript",
    "total_flos",
}
# The same in prose: times, real-time factors, processes; in an annotation its date and where the recording lies.
TOLD = re.compile(r'[\d.]+ minutes|\d\.\d{3}|\d process(es)?|(MEDIA_URL|DATE)="[^"]*"')
# The last holds, in half precision, the weights that are compared beside it.
NOT_COMPARED = re.compile(r"/(checkpoints|logs)/|\.png$|training_args\.bin$|run_children_pipeline/submission\.zip$")


def launch(
    config: str, *words: object, check: bool = True, environment: dict | None = None
) -> subprocess.CompletedProcess:
    command = [
        Path(sys.executable).with_name("accelerate"),
        "launch",
        "--config_file",
        ROOT / "accelerate_configs" / f"{config}.yaml",
        ROOT / "tests" / "support" / "every_recipe.py",
        *map(str, words),
    ]
    return subprocess.run(
        command, cwd=ROOT, check=check, timeout=1800, env={**(environment or os.environ), "OMP_NUM_THREADS": "1"}
    )


def made(run: Path, name: str) -> dict[str, Path]:
    """What a recipe left, and what its `main` returned, by path in the run."""
    paths = [run / f"{name}.0.json", *run.glob(f"{name}.*"), *run.glob(f"{name}/**/*"), *run.glob(f"{name}_*/**/*")]
    found = {path.relative_to(run).as_posix(): path for path in paths if path.is_file()}
    return {file: path for file, path in found.items() if not NOT_COMPARED.search(file) and file != f"{name}.1.json"}


def content(file: Path, runs: tuple[Path, ...]):
    """Its bytes, or what they say, without times and without the names of the runs."""
    if file.suffix in (".json", ".jsonl", ".md", ".html", ".eaf"):
        text = file.read_text()
        for run in runs:
            text = text.replace(str(run), "RUN")
        if file.suffix in (".json", ".jsonl"):
            return [plain(json.loads(line)) for line in (text.splitlines() if file.suffix == ".jsonl" else [text])]
        return TOLD.sub("", text)
    if file.suffix == ".safetensors":
        return {name: tensor.numpy() for name, tensor in load_file(file).items()}
    if file.suffix == ".wav":
        return soundfile.read(file)[0]
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as package:
            return {name: package.read(name) for name in package.namelist()}
    return file.read_bytes()


def plain(value):
    """As `timeless`, without what only says how the run was made."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in timeless(value).items() if key not in ABOUT}
    return [plain(item) for item in value] if isinstance(value, list) else value


def assert_close(actual, expected, where: str, tolerance: float) -> None:
    """All of the same shape, and numbers equal but for `tolerance`."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), where
        for key in expected:
            assert_close(actual[key], expected[key], f"{where}: {key}", tolerance)
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for number, (one, two) in enumerate(zip(actual, expected, strict=True)):
            assert_close(one, two, f"{where}[{number}]", tolerance)
    elif isinstance(expected, (float, np.ndarray)):
        np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance, err_msg=where)
    else:
        assert actual == expected, where


def assert_same(two: Path, one: Path, name: str) -> None:
    """Raise if the recipe has left another thing in one run than in the other."""
    actual, expected = made(two, name), made(one, name)
    assert actual.keys() == expected.keys() and expected
    for file in expected:
        tolerance = (
            0 if name not in ROUNDED else 1e-4 if file.endswith(".wav") else 1e-5
        )  # a sample is rounded to 16 bits
        assert_close(content(actual[file], (two, one)), content(expected[file], (two, one)), file, tolerance)


@pytest.mark.unit
def test_every_recipe_takes_part():
    assert {path.stem for path in (ROOT / "recipes").glob("*.py")} == set(ALL)


@pytest.mark.integration
def test_two_processes_prepare_and_embed_as_one_does(tmp_path):
    """The fast one of those below."""
    names = ["prepare_corpus", "extract_embeddings"]
    sources, one, two = tmp_path / "sources", tmp_path / "one" / "run", tmp_path / "two" / "run"
    save_tiny_whisper(sources / "whisper")
    speaker_folder(sources / "speakers")
    every_recipe.run(sources, one, one, names, [])
    launch("multi_cpu", sources, two, two, *names)
    for name in names:
        assert_same(two, one, name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, Path, HubServer, dict]:
    """Sources; every recipe by one process, and again by two that read what the one left; a Hub, and how it is
    reached."""
    folder = tmp_path_factory.mktemp("runs")
    sources, one, two = folder / "sources", folder / "one" / "run", folder / "two" / "run"
    write_sources(sources)
    with HubServer() as hub:
        environment = hub.environment(folder / "home")
        launch("cpu", sources, one, one, environment=environment)
        launch("multi_cpu", sources, one, two, environment=environment)
        yield sources, one, two, hub, environment


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_two_processes_leave_what_one_does(runs, name):
    _, one, two, hub, _ = runs
    returned = [json.loads((two / f"{name}.{process}.json").read_text()) for process in range(2)]
    assert plain(returned[0]) == plain(returned[1])
    if name == "publish":
        there = {path: content.replace(b"/two", b"/one") for path, content in hub.files(f"{USER}/two").items()}
        assert there == hub.files(f"{USER}/one")  # the card names the repository
        assert len(hub.repository(f"{USER}/two").commits) == len(hub.repository(f"{USER}/one").commits)
    else:
        assert_same(two, one, name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "event", "number"), [("train_moe_whisper", "step", 2), ("learn_units", "file", 1)])
def test_a_killed_process_ends_the_run_which_can_be_resumed(runs, tmp_path, name, event, number):
    sources, one, two, _, environment = runs
    killed = tmp_path / "run"
    failed = launch(
        "multi_cpu", sources, one, killed, name, "--kill", 1, event, number, check=False, environment=environment
    )
    assert failed.returncode != 0 and time.time() - (tmp_path / "killed").stat().st_mtime < 60
    assert not (killed / f"{name}.0.json").exists()
    launch("multi_cpu", sources, one, killed, name, "--resume", environment=environment)
    for file, path in made(two, name).items():
        assert_close(content(killed / file, (killed, two)), content(path, (killed, two)), file, tolerance=0)
