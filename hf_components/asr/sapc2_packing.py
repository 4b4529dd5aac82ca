"""Packages for both tracks of the SAP challenge (SAPC2), and a trial of them as its organisers run them.

The zip has `model.py` with the class `Model`, `setup.sh`, and a folder with the programs of `hf_components/submission`
and the weights. See https://github.com/xiuwenz2/SAPC-template for what the organisers call.
"""

import functools
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import datasets
import torch

from hf_components.asr.packing import REPORTED_LINES, write_package
from hf_components.asr.transcriber import Transcriber
from hf_components.runtime import UserError
from hf_components.speech import encode_wav, waveforms

PROGRAMS = Path(__file__).parents[1] / "submission"
TRIAL = Path(__file__).with_name("sapc2_trial.py")
FOLDER = "underheard_submission"  # package in the zip
KITS = ("sapc2-track1", "sapc2-track2")
TIME_LIMITS = {"sapc2-track1": 21_600, "sapc2-track2": 15_000}  # seconds per submission

# The image has torch 2.5, which transformers 4.57 still takes.
SETUP = """#!/bin/bash
# Installs what the image of the challenge lacks. Weights are in the zip, so nothing is downloaded later.
set -e
python3 - << 'CHECK' 2> /dev/null || python3 -m pip install "transformers>=4.57,<5" soundfile
import soundfile
import transformers
assert tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 57)
CHECK
python3 -c "import soundfile, torch, transformers; print('torch', torch.__version__, transformers.__version__)"
"""


def write_sapc2_package(
    file: Path,
    transcriber: Transcriber,
    dtype: torch.dtype,
    kit: str,
    *,
    partial_seconds: float = 0.6,
    context_seconds: float = 10.0,
) -> None:
    """Write the zip of a track. Converts the weights of `transcriber` to `dtype`, in place.

    Args:
        partial_seconds: track 2: new audio before the next partial transcript.
        context_seconds: track 2: least audio context. A Whisper that was never trained on short ones needs 10 s, or it
            repeats itself.
    Raises:
        UserError: track 2 with a model that is no Whisper, or the disk is full.
    """
    how = transcriber.model.config.submission
    if kit == "sapc2-track2":
        if how["kind"] != "whisper":
            raise UserError(
                f"--kit {kit} streams with a Whisper, got a model of type {transcriber.model.config.model_type}; "
                "pack a Whisper, or take --kit sapc2-track1"
            )
        transcriber.model.config.submission = {
            **how,
            "partial_seconds": partial_seconds,
            "context_seconds": context_seconds,
        }
    write_package(file, transcriber, dtype, functools.partial(lay_out, kit=kit))


def lay_out(folder: Path, kit: str) -> Path:
    """Write the programs of a kit into `folder`; returns the folder for the weights."""
    home = folder / FOLDER
    home.mkdir()
    program = kit.replace("-", "_")
    for name in ("__init__", "main", program):
        shutil.copy(PROGRAMS / f"{name}.py", home)
    (folder / "model.py").write_text(f"from {FOLDER}.{program} import Model\n", encoding="utf-8")
    (folder / "setup.sh").write_text(SETUP, encoding="utf-8")
    return home


def run_sapc2_package(
    file: Path, corpus: datasets.Dataset, kit: str, python: str = sys.executable
) -> tuple[list[str], dict]:
    """Unpack into an empty folder, and transcribe clips of a corpus there as the organisers do, in its own process.

    Args:
        corpus: rows of a prepared corpus, audio not decoded.
        python: Python interpreter, maybe of another environment. `setup.sh` is not run.
    Returns:
        the transcripts in the order of the corpus, and a report in the form of `run_package`.
    Raises:
        UserError: the package fails.
    """
    with tempfile.TemporaryDirectory(prefix="submission") as folder:
        (Path(folder) / "data").mkdir()
        names = []
        for number, row in enumerate(corpus):
            names.append(f"data/{number}.wav")
            (Path(folder) / names[-1]).write_bytes(encode_wav(*waveforms([row])))
        with zipfile.ZipFile(file) as package:
            package.extractall(Path(folder) / "src")
        shutil.copy(TRIAL, folder)
        process = subprocess.run(
            [python, "-I", TRIAL.name, kit.removeprefix("sapc2-"), *names], cwd=folder, capture_output=True, text=True
        )
        if process.returncode:
            log = "\n".join(process.stderr.splitlines()[-REPORTED_LINES:])
            raise UserError(
                f"{file} fails in its own process, with exit code {process.returncode}; it ended with:", details=log
            )
        found = json.loads((Path(folder) / "trial.json").read_text(encoding="utf-8"))
    return found.pop("texts"), found
