"""The parcel holds what a recipe needs and nothing else, and its scripts run a recipe from it."""

import os
import subprocess
import sys
import zipfile

import pytest
from paths import ROOT

from launchers.commands import UserError
from launchers.parcel import build_parcel


@pytest.fixture
def offline_pip(monkeypatch):
    """Build with the setuptools that is installed; pip reads "false" as "no isolation"."""
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "false")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.integration
def test_it_holds_wheel_recipes_and_configurations_alone(tmp_path, offline_pip):
    folder = build_parcel(tmp_path / "parcel")
    (wheel,) = folder.glob("*.whl")
    assert sorted(path.name for path in folder.iterdir()) == [
        "accelerate_configs",
        "constraints.txt",
        "launchers",
        "recipes",
        wheel.name,
    ]
    packed = zipfile.ZipFile(wheel).namelist()
    assert {
        "hf_components/runtime/arguments.py",
        "dataset_scripts/utterances.py",
        "model_cards/moe_whisper.md",
    } <= set(packed)
    for name in ("recipes", "accelerate_configs", "launchers"):
        here = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".yaml", ".sh")}
        assert {path.relative_to(folder) for path in (folder / name).rglob("*") if path.is_file()} == here
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 5e6
    with pytest.raises(UserError, match="not empty"):
        build_parcel(folder)


@pytest.mark.slow
def test_a_recipe_runs_from_it_and_continues(tmp_path, offline_pip):
    """run.sh as on a machine elsewhere, but that `uv` gives it this interpreter with the parcel's wheel in front."""
    folder = build_parcel(tmp_path / "parcel")
    programs = tmp_path / "bin"
    programs.mkdir()
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    (programs / "uv").write_text(f'#!/usr/bin/env bash\necho "uv $*"\n[ "$1" = pip ] || ln -s {sys.prefix} .venv\n')
    (programs / "uv").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path / "installed"),
        "HF_HUB_OFFLINE": "1",
    }
    words = [
        "bash",
        folder / "launchers" / "run.sh",
        "make_demo_corpus",
        "--config",
        "recipes/configs/make_demo_corpus/quick.yaml",
        "--output_dir",
        "runs/demo",
    ]
    first = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"underheard[demo,export,gpu,vad] @ file://{folder}/{wheel.name}" in first.stdout
    assert (folder / "runs" / "demo" / "stage.json").is_file()
    made = (folder / "runs" / "demo" / "stage.json").stat().st_mtime_ns
    again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (folder / "runs" / "demo" / "stage.json").stat().st_mtime_ns == made  # --resume kept it
    wrong = subprocess.run([*words, "--no_such_flag"], env=environment, capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
