"""What is written about a stage: the record of its start, and `stage.json`, the proof that it is complete."""

import dataclasses
import enum
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from hf_components.runtime.disk import atomic_write, full_disk_explained
from hf_components.runtime.records import FILES, NUMBER, describe_file, read_record, sealed

COMPLETION = "stage.json"
SUMMARY = ".summary.json"  # end of the name of a record beside the files that it is about
STARTED = "started.json"  # settings, inputs and sources of an unfinished stage
IDENTITY_FORM = {"config": dict, "inputs": {str: str}, "code_version": str}
STARTED_FORM = {"identity": IDENTITY_FORM, "sources": {str: str}}
COMPLETION_FORM = {
    "identity": IDENTITY_FORM,
    "sources?": {str: str},
    "fingerprint": str,
    "config": dict,
    "metrics": dict,
    "seconds": NUMBER,
    "environment?": dict,
    "files?": FILES,
    "places?": {str: str},
}


def read_completion(folder: str | Path) -> dict | None:
    """The content of a finished stage's `stage.json`, or None. Raises UserError if the file is damaged."""
    file = Path(folder) / COMPLETION
    if not file.is_file():
        return None
    return read_record(file, COMPLETION_FORM, f"delete {folder} and run the stage again")


def read_started(work: Path) -> dict | None:
    """The record of the unfinished stage in `work`, or None."""
    if (completion := read_completion(work)) is not None:
        return completion
    file = work / STARTED
    return read_record(file, STARTED_FORM, f"delete {work} to start again") if file.exists() else None


def write_record(file: Path, record: dict, files: Iterable[Path] = ()) -> None:
    """Write JSON with its seal, see `sealed`.

    Args:
        files: files in the same folder that the record is about; their content is recorded, and `read_record` and
            `check_files` find a change.
    """
    described = {path.name: describe_file(path) for path in files}
    write_json(file, sealed(plain({**record, "files": described} if described else record)))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON; a reader finds the old file or the new one. Raises UserError if the disk is full."""
    path = Path(path)
    with full_disk_explained(path), atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=jsonable)
        file.write("\n")


def environment() -> dict:
    """Versions and hardware, which are recorded with every result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "platform": platform.machine(),
        "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def plain(config: Any) -> Any:
    if isinstance(config, (list, tuple)):
        return {key: value for part in config for key, value in plain(part).items()}
    if hasattr(config, "to_sanitized_dict"):  # TrainingArguments; access tokens are removed
        config = config.to_sanitized_dict()
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    return json.loads(json.dumps(values, default=jsonable))  # the form that a record has when it is read back


def jsonable(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else str(value)
