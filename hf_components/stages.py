"""Stages: work done in a temporary folder and renamed into place, with `stage.json` as proof of completion."""

import contextlib
import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from hf_components.errors import UserError

logger = logging.getLogger(__name__)

PROOF = "stage.json"
# Fields that change how a stage runs or where it writes, not what it computes.
NOT_PART_OF_RESULT = {"output_dir", "resume", "log_file", "logging_dir", "num_workers", "num_proc", "dataloader_num_workers",
                      "report_to", "push_to_hub", "hub_model_id", "hub_token", "disable_tqdm", "run_name"}


def run_stage(output_dir: str | Path, produce: Callable[[Path], dict], *, config: Any,
              inputs: Iterable[str | Path] = (), resume: bool = False, alone: bool = False) -> dict:
    """Run `produce(folder)` and put its folder at `output_dir` once it is complete.

    Args:
        output_dir: where the finished folder goes. An earlier result of a stage is replaced, anything else refused.
        produce: writes its files into the folder it is given and returns JSON-serialisable metrics. With `resume`
            the folder may hold the files of an interrupted run with the same fingerprint.
        config: dataclass, dict, or sequence of them; recorded, and part of the fingerprint.
        inputs: files and folders read; their fingerprints are part of this stage's.
        resume: return the earlier metrics if the fingerprint still matches, or say why it does not.
        alone: only the main process produces, the others wait; else `produce` shares its work among processes.
    Returns:
        the metrics of `produce`.
    Raises:
        UserError: `output_dir` cannot be written, or holds something that is not a stage's result.
    """
    output_dir = Path(output_dir)
    if output_dir.name in ("", "..") or (output_dir.exists() and not output_dir.is_dir()):
        raise UserError(f"--output_dir must name a folder that may be replaced, got {output_dir}; choose one")
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    resolved, inputs = _plain(config), [str(path) for path in inputs]
    identity = {"config": _result_relevant(resolved, inputs), "inputs": _fingerprints(inputs),
                "code_version": importlib.metadata.version("underheard")}
    digest = _digest(identity)

    proof = read_proof(output_dir)
    if resume and proof is not None:
        if proof["fingerprint"] == digest:
            logger.info("%s is complete, skipped", output_dir)
            return proof["metrics"]
        logger.info("%s runs again: %s", output_dir, _difference(proof["identity"], identity))
    elif proof is None and output_dir.is_dir() and any(output_dir.iterdir()):
        raise UserError(f"{output_dir} is not empty and not the result of a stage ({PROOF} is missing); "
                        "choose another --output_dir or empty it")

    work = output_dir.with_name(f".{output_dir.name}.partial")
    if state.is_main_process:
        _open_work_folder(work, digest, resume)
    state.wait_for_everyone()

    start = time.time()
    metrics = produce(work) if state.is_main_process or not alone else None
    state.wait_for_everyone()
    if state.is_main_process:
        (work / "fingerprint").unlink()
        write_json(work / PROOF, {
            "fingerprint": digest, "identity": identity, "config": resolved, "metrics": metrics,
            "seconds": round(time.time() - start, 1), "environment": environment(),
        })
        _replace(work, output_dir)
        logger.info("%s written in %.0f s", output_dir, time.time() - start)
    state.wait_for_everyone()
    return read_proof(output_dir)["metrics"] if metrics is None else metrics


def read_proof(folder: str | Path) -> dict | None:
    """The content of a finished stage's `stage.json`, or None."""
    try:
        return json.loads((Path(folder) / PROOF).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{Path(folder) / PROOF} is damaged: {error}; delete {folder} and run the stage again") from error


def fingerprint(path: str | Path) -> str:
    """A digest of a file or folder that changes with its content.

    A finished stage answers with its own fingerprint. Elsewhere small files (under 1 MiB) count by content, large
    ones by size and time of change. What does not exist on disk (a Hub id) counts by its name.
    """
    path = Path(path)
    proof = read_proof(path)
    if proof is not None:
        return proof["fingerprint"]
    if not path.exists():
        return str(path)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return _digest([(p.name if p == path else p.relative_to(path).as_posix(), _fingerprint_file(p)) for p in files])


def environment() -> dict:
    """Versions and hardware, as recorded beside every result."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "accelerate": accelerate.__version__, "platform": platform.machine(), "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=_jsonable)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _fingerprints(inputs: Iterable[str | Path]) -> dict[str, str]:
    named: dict[str, str] = {}
    for path in inputs:  # by name, so that moving a run does not repeat it; two of one name are told apart by number
        name = Path(path).name
        named[f"{name} ({len(named) + 1})" if name in named else name] = fingerprint(path)
    return named


def _open_work_folder(work: Path, digest: str, resume: bool) -> None:
    mark = work / "fingerprint"
    try:
        if work.exists() and not (resume and mark.exists() and mark.read_text() == digest):
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        mark.write_text(digest)
    except OSError as error:
        raise UserError(f"cannot write to {work.parent}: {error.strerror}; choose another --output_dir") from error


def _replace(work: Path, output_dir: Path) -> None:
    old = output_dir.with_name(f".{output_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        output_dir.rename(old)
    work.rename(output_dir)
    shutil.rmtree(old, ignore_errors=True)


def _plain(config: Any) -> Any:
    if isinstance(config, (list, tuple)):
        return {key: value for part in config for key, value in _plain(part).items()}
    if hasattr(config, "to_sanitized_dict"):  # TrainingArguments, without tokens
        return dict(config.to_sanitized_dict())
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    return json.loads(json.dumps(values, default=_jsonable))


def _result_relevant(config: dict, inputs: list[str]) -> dict:
    # An input counts by its content, not by where it lies: a run that was moved is still complete.
    return {key: value for key, value in config.items() if key not in NOT_PART_OF_RESULT and value not in inputs}


def _jsonable(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else str(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_jsonable).encode()).hexdigest()[:16]


def _fingerprint_file(path: Path) -> str:
    stat = path.stat()
    if stat.st_size < 2**20:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _difference(old: dict, new: dict) -> str:
    changed = [f"{section}.{key}" for section in ("config", "inputs")
               for key in sorted(old[section].keys() | new[section].keys())
               if old[section].get(key) != new[section].get(key)]
    return ", ".join(changed) + " changed" if changed else "the code version changed"
