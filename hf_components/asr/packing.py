"""Pack a speech recogniser for a competition, and run the package the same way as the competition."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import torch

from hf_components.asr.family import rate_of
from hf_components.asr.transcriber import Transcriber
from hf_components.checkpoints import save_processor, writes
from hf_components.runtime import PHONETIC, TEXT, UserError, full_disk_explained
from hf_components.speech import SAMPLING_RATE, WORDS, encode_flac, waveforms
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration, WhisperForCTC

MAIN = Path(__file__).parents[1] / "submission" / "main.py"
FINISHED = re.compile(r"finished (\{.*\})$", re.MULTILINE)  # the last line that main.py logs
REPORTED_LINES = 15  # last log lines shown when a package fails


def load_packable(name_or_path: str, language: str | None, adapter: str | None, max_new_tokens: int) -> Transcriber:
    """Load a recogniser in float32 that `main.py` can run with only transformers.

    Args:
        language: code such as "en" for a multilingual checkpoint; None for the language it was saved with.
        adapter: PEFT adapter, which is merged into the weights.
        max_new_tokens: limit of tokens per text of a Whisper.
    Raises:
        UserError: there is no such checkpoint or adapter, or `main.py` does not support its kind.
    """
    transcriber = Transcriber.from_pretrained(
        name_or_path,
        language,
        adapter=adapter or (),
        dtype="float32",
        max_new_tokens=max_new_tokens,
        least_risk=False,  # main.py takes the most probable text
    )
    model = transcriber.model
    if isinstance(model, MoeWhisperForConditionalGeneration):
        raise UserError(
            f"{name_or_path} mixes experts, but a plain Whisper is needed; recipes/merge_moe_whisper.py makes one"
        )
    how = transcriber.family.packed(model.config.model_type, language)
    if how is None or rate_of(transcriber.processor) != SAMPLING_RATE:
        kind = model.config.model_type
        raise UserError(f"{name_or_path} is of type {kind}, which needs more than transformers to run in a package")
    field = TEXT if writes(model) == WORDS else PHONETIC
    model.config.submission = {**how, "max_new_tokens": max_new_tokens, "field": field}
    if isinstance(model, DynamicContextWhisper):
        model.set_audio_context("full")  # as in main.py, so that differences come from the packing
    elif isinstance(model, WhisperForCTC):
        model.config.min_audio_context = 2 * model.config.max_source_positions
    return transcriber


def write_package(
    file: Path, transcriber: Transcriber, dtype: torch.dtype, lay_out: Callable[[Path], Path] | None = None
) -> None:
    """Write a zip with `main.py` and the folder `model`. Converts the weights of `transcriber` to `dtype`, in place.

    Args:
        lay_out: writes the programs of another competition into an empty folder, and returns the folder for `model`.
    Raises:
        UserError: the disk is full.
    """
    model = transcriber.model
    if isinstance(model, DynamicContextWhisper):  # main.py takes all settings from the folder
        model.generation_config.update(max_new_tokens=transcriber.max_new_tokens, max_length=None)
    with _emptied(file.with_suffix(".packing")) as folder, full_disk_explained(file):
        home = lay_out(folder) if lay_out else Path(shutil.copy(MAIN, folder)).parent
        model.to(dtype).save_pretrained(home / "model")
        save_processor(transcriber.processor, home / "model")
        if isinstance(model, WhisperForCTC):
            leave_out_own_code(home / "model")
        with zipfile.ZipFile(file, "w") as package:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                # Compression takes minutes for weights, and hardly makes them smaller.
                method = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
                package.write(path, path.relative_to(folder), method)


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """An empty folder for the block. Its name is always the same, so that one which a kill has left is deleted too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def leave_out_own_code(folder: Path) -> None:
    """Describe a `WhisperForCTC` as a Whisper, whose encoder `main.py` takes from transformers of any version."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"model_type": "whisper"}
    file.write_text(
        json.dumps({name: config[name] for name in config if name not in ("auto_map", "architectures")}),
        encoding="utf-8",
    )
    for code in folder.glob("*.py"):
        code.unlink()


def run_package(
    file: Path, corpus: datasets.Dataset, python: str = sys.executable, *, field: str = TEXT
) -> tuple[list[str], dict]:
    """Unpack into an empty folder, and run `main.py` there in its own process, offline, on clips of a corpus.

    Args:
        corpus: rows of a prepared corpus, audio not decoded.
        python: Python interpreter, maybe of another environment.
        field: name of the text in a line of the submission.
    Returns:
        the transcripts in the order of the corpus, and the report of `main.py`: `utterances`, `unreadable`,
        `audio_seconds`, `loading_seconds`, `transcribing_seconds`.
    Raises:
        UserError: `main.py` fails, or its output is not a submission.
    """
    with tempfile.TemporaryDirectory(prefix="submission") as folder:
        write_test_data(Path(folder) / "data", corpus, field)
        with zipfile.ZipFile(file) as package:
            package.extractall(Path(folder) / "src")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.run(
            [python, "src/main.py"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{folder}/hub"},
        )
        if process.returncode:
            log = "\n".join(process.stderr.splitlines()[-REPORTED_LINES:])
            raise UserError(
                f"{file} fails in its own process, with exit code {process.returncode}; it ended with:", details=log
            )
        submission = Path(folder) / "submission" / "submission.jsonl"
        written = [json.loads(line) for line in submission.open(encoding="utf-8")]
    if [row["utterance_id"] for row in written] != corpus["id"][:]:
        raise UserError(
            f"{file} does not write the ids of submission_format.jsonl in their order; this is an error in main.py"
        )
    return [row[field] for row in written], json.loads(FINISHED.search(process.stderr)[1])


def write_test_data(folder: Path, corpus: datasets.Dataset, field: str = TEXT) -> None:
    """Write the files that a competition provides: metadata, format and `audio/`."""
    (folder / "audio").mkdir(parents=True)
    with (
        (folder / "utterance_metadata.jsonl").open("w", encoding="utf-8") as metadata,
        (folder / "submission_format.jsonl").open("w", encoding="utf-8") as submission_format,
    ):
        for number, row in enumerate(corpus):
            path = f"audio/{number}.flac"
            (folder / path).write_bytes(encode_flac(*waveforms([row])))
            about = {"utterance_id": row["id"], "audio_path": path, "audio_duration_sec": row["duration"]}
            metadata.write(json.dumps(about) + "\n")
            submission_format.write(json.dumps({"utterance_id": row["id"], field: ""}) + "\n")


def estimated_seconds(report: dict, utterances: int | None, hours: float | None) -> float | None:
    """Estimated run time on a test set, from the report of a run on a few clips.

    It is proportional to the number of utterances if that is known, because Whisper pads each one to 30 s; else to the
    hours of audio.
    """
    if utterances is not None:
        share = utterances / report["utterances"]
    elif hours is not None:
        share = 3600 * hours / report["audio_seconds"]
    else:
        return None
    return report["loading_seconds"] + share * report["transcribing_seconds"]
