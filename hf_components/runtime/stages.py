"""Stages: work in a temporary folder that is renamed when complete, with the completion record `stage.json`."""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from hf_components import __version__
from hf_components.runtime.disk import atomic_write, full_disk_explained, sync_folder
from hf_components.runtime.errors import UserError, first_few
from hf_components.runtime.files import files_below
from hf_components.runtime.locks import alone_in

logger = logging.getLogger(__name__)

COMPLETION = "stage.json"
STARTED = "started.json"  # settings, inputs and sources of an unfinished stage
PACKAGES = ("hf_components", "dataset_scripts")  # their sources and the recipe's own file are the code of a stage
# Settings that change how a stage runs or where it writes, but not its result.
NOT_PART_OF_RESULT = {
    "output_dir",
    "resume",
    "log_file",
    "logging_dir",
    "num_workers",
    "num_proc",
    "dataloader_num_workers",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_token",
    "disable_tqdm",
    "run_name",
    "plot",
    "no_plot",
    "rebase_output_dir",
    "force_restart",
    "logging_steps",
    "logging_strategy",
    "logging_first_step",
    "save_total_limit",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "ddp_timeout",
}


def run_stage(
    output_dir: str | Path,
    produce: Callable[[Path], dict],
    *,
    config: Any,
    inputs: Iterable[str | Path] = (),
    resume: bool = False,
    alone: bool = False,
    archive: bool = False,
) -> dict:
    """Run `produce(folder)`, and rename the folder to `output_dir` when it is complete.

    Args:
        output_dir: path of the finished folder. An earlier result of a stage is replaced, anything else is an error.
        produce: function that writes its files into the given folder and returns JSON-serialisable metrics. With
            `resume` the folder may hold the files of an interrupted run with the same settings and inputs.
        config: dataclass, dict, or sequence of them; recorded, and part of the fingerprint.
        inputs: files and folders that are read; their fingerprints are part of the stage's fingerprint.
        resume: if settings, inputs and package version are the same, continue an interrupted run or return the metrics
            of a complete one; else log the difference and run again. Other changes of the code only cause a warning.
        alone: only the main process calls `produce`, the others wait; else `produce` shares its work among processes.
        archive: keep the earlier result as `archive/<name>_<time of its end>` beside it.
    Returns:
        the metrics of `produce`.
    Raises:
        UserError: `output_dir` cannot be written, another run is writing it, it holds something else than the result
            of a stage, or its disk is full.
    """
    output_dir = Path(output_dir)
    if output_dir.name in ("", "..") or (output_dir.exists() and not output_dir.is_dir()):
        raise UserError(f"--output_dir must name a folder that may be replaced, got {output_dir}; choose one")
    state = join_processes()
    work = output_dir.with_name(f".{output_dir.name}.partial")
    resolved = _plain(config)
    inputs = _named(inputs)

    def look() -> tuple[dict, dict | None, dict | None]:
        completion = read_completion(output_dir)
        if completion is None and output_dir.is_dir() and any(output_dir.iterdir()):
            raise UserError(
                f"{output_dir} is not empty and not the result of a stage ({COMPLETION} is missing); choose another "
                "--output_dir or empty it"
            )
        fingerprints = {name: fingerprint(path) for name, path in inputs.items()}
        identity = {"config": _result_relevant(resolved, inputs), "inputs": fingerprints, "code_version": __version__}
        return {"identity": identity, "sources": _source_digests(produce)}, completion, _read_started(work)

    # Only one process looks, so that all of them decide the same even if their disks differ.
    stage, completion, unfinished = broadcast_object_list([look() if state.is_main_process else None])[0]

    goes_on = resume and unfinished is not None and unfinished["identity"] == stage["identity"]
    if goes_on:  # even if there is a finished result with the same settings: the interrupted run was to replace it
        advice = "to start again, run without --resume"
        continued = f"the interrupted run of {output_dir} is continued"
        _warn_of_changed_sources(unfinished["sources"], stage["sources"], continued, advice)
    elif resume and completion is not None and completion["identity"] == stage["identity"]:
        advice = f"to run it again, delete {output_dir}"
        kept = f"{output_dir} is complete and kept"
        _warn_of_changed_sources(completion.get("sources", {}), stage["sources"], kept, advice)
        if resolved.get("plot") and completion["config"].get("plot") is False:
            logger.warning("%s was made without plots; to draw them, delete it", output_dir)
        logger.info("%s is complete, skipped", output_dir)
        return completion["metrics"]
    elif resume and completion is not None:
        logger.info("%s runs again: %s", output_dir, _difference(completion["identity"], stage["identity"]))

    with alone_in(work, "--output_dir") if state.is_main_process else contextlib.nullcontext():
        if state.is_main_process:
            if not goes_on:
                _set_aside(work, unfinished, stage, resume)
            write_json(work / STARTED, stage)
        state.wait_for_everyone()
        if read_completion(work) is None:  # else it was killed after the completion record, before the renaming
            try:
                with full_disk_explained(output_dir):
                    _produce(work, produce, {**stage, "config": resolved}, alone)
            except UserError:
                if state.is_main_process and not _holds_work(work):
                    shutil.rmtree(work, ignore_errors=True)  # nothing was done that a next run could continue
                raise
        state.wait_for_everyone()
        if state.is_main_process:
            _replace(work, output_dir, archive)
        state.wait_for_everyone()
    completion = read_completion(output_dir)
    logger.info("%s written in %.0f s", output_dir, completion["seconds"])
    return completion["metrics"]


def run_as_stage(
    produce: Callable[..., dict], *arguments: Any, inputs: Iterable[str | Path | None] = (), alone: bool = False
) -> dict:
    """`run_stage` of a recipe, with `output_dir` and `resume` from its arguments.

    Args:
        produce: function of the arguments and the folder to fill; returns metrics.
        arguments: parsed dataclasses with `output_dir` and `resume`, and perhaps `rebase_output_dir`. If one is a
            `TrainingArguments`, the number of processes is part of the fingerprint.
        inputs: files, folders and Hub ids that are read; None is ignored.
        alone: see `run_stage`.
    """
    given = {name: value for part in arguments for name, value in vars(part).items()}
    trained = [part for part in arguments if isinstance(part, transformers.TrainingArguments)]

    @functools.wraps(produce)  # so that the recipe's own file is recorded
    def fill(folder: Path) -> dict:
        return produce(*arguments, folder)

    return run_stage(
        given["output_dir"],
        fill,
        config=(*arguments, *({"processes": part.world_size} for part in trained)),
        inputs=[path for path in inputs if path],
        resume=given["resume"],
        archive=given.get("rebase_output_dir", False),
        alone=alone,
    )


def join_processes() -> PartialState:
    """Join the processes that the launcher started for this run. Must come before any other use of `PartialState`."""
    # The timeout is long because the other processes wait while the main one works alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=12))


def read_completion(folder: str | Path) -> dict | None:
    """The content of a finished stage's `stage.json`, or None. Raises UserError if the file is damaged."""
    return _read_json(Path(folder) / COMPLETION)


def fingerprint(path: str | Path) -> str:
    """A digest of a file or folder that changes with its content.

    A finished stage has its recorded fingerprint. Otherwise small files (under 1 MiB) count by content, large ones by
    size and modification time. A path that is not on the disk (a Hub id) counts by its name.
    """
    path = Path(path)
    completion = read_completion(path)
    if completion is not None:
        return completion["fingerprint"]
    if not path.exists():
        return str(path)
    files = [path] if path.is_file() else sorted(p for p in files_below(path, hidden=True) if p.is_file())
    return _digest([(p.name if p == path else p.relative_to(path).as_posix(), _fingerprint_file(p)) for p in files])


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


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON; a reader finds the old file or the new one. Raises UserError if the disk is full."""
    path = Path(path)
    with full_disk_explained(path), atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=_jsonable)
        file.write("\n")


def _read_json(file: Path) -> dict | None:
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is damaged: {error}; delete {file.parent} and run the stage again") from error


def _read_started(work: Path) -> dict | None:
    """The record of the unfinished stage in `work`, or None."""
    return read_completion(work) or _read_json(work / STARTED)


def _interrupted(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(".partial") + ".interrupted")


def _holds_work(work: Path) -> bool:
    """Whether the folder of an unfinished stage holds more than the record of its start."""
    return any(path.is_file() and path != work / STARTED for path in work.rglob("*"))


def _set_aside(work: Path, unfinished: dict | None, stage: dict, resume: bool) -> None:
    """Move an interrupted run out of `work`. It may have taken days, so it is kept until the new run is complete."""
    if not _holds_work(work):
        return
    if not resume:
        why = "--resume would have continued it if nothing changed"
    elif unfinished is None:
        why = "it has no record of its settings"
    else:
        why = _difference(unfinished["identity"], stage["identity"])
    kept = _interrupted(work)
    text = "the interrupted run in %s is set aside: %s; it is kept in %s until this run is complete; to continue it, "
    text += "move it back and use --resume"
    logger.warning(text, work, why, kept)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for path in list(work.iterdir()):  # the files, not the folder, which is locked
        path.rename(kept / path.name)


def _produce(work: Path, produce: Callable[[Path], dict], stage: dict, alone: bool) -> None:
    state = PartialState()
    start = time.time()
    metrics = produce(work) if state.is_main_process or not alone else None
    state.wait_for_everyone()
    if state.is_main_process:
        sync_folder(work)  # before the completion record: it must not exist if a file did not reach the disk
        digest = _digest({key: stage[key] for key in ("identity", "sources")})
        write_json(
            work / COMPLETION,
            {
                "fingerprint": digest,
                **stage,
                "metrics": metrics,
                "seconds": round(time.time() - start, 1),
                "environment": environment(),
            },
        )


def _replace(work: Path, output_dir: Path, archive: bool) -> None:
    (work / STARTED).unlink(missing_ok=True)
    if archive and (output_dir / COMPLETION).exists():
        ended = time.strftime("%Y%m%d-%H%M%S", time.localtime((output_dir / COMPLETION).stat().st_mtime))
        kept = output_dir.with_name("archive") / f"{output_dir.name}_{ended}"
        kept.parent.mkdir(exist_ok=True)
        output_dir.rename(kept)
        logger.info("the earlier result is kept as %s", kept)
    old = output_dir.with_name(f".{output_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        output_dir.rename(old)
    work.rename(output_dir)
    for left in (old, _interrupted(work)):
        shutil.rmtree(left, ignore_errors=True)


def _plain(config: Any) -> Any:
    if isinstance(config, (list, tuple)):
        return {key: value for part in config for key, value in _plain(part).items()}
    if hasattr(config, "to_sanitized_dict"):  # TrainingArguments; access tokens are removed
        config = config.to_sanitized_dict()
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    return json.loads(json.dumps(values, default=_jsonable))  # the form that a record has when it is read back


def _named(inputs: Iterable[str | Path]) -> dict[str, str]:
    """Inputs by file name, so that a run that was moved is not repeated; equal names get numbers."""
    named: dict[str, str] = {}
    for path in map(str, inputs):
        name = Path(path).name
        named[f"{name} ({len(named) + 1})" if name in named else name] = path
    return named


def _result_relevant(config: dict, inputs: dict[str, str]) -> dict:
    # An input counts by its name and content, not by its path.
    names = {path: name for name, path in inputs.items()}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {key: named(value) for key, value in config.items() if key not in NOT_PART_OF_RESULT}


def _source_digests(produce: Callable) -> dict[str, str]:
    root = Path(__file__).parents[2]
    sources = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    files = {path.relative_to(root).as_posix(): path for path in sources}
    recipe = vars(sys.modules[produce.__module__]).get("__file__")  # a notebook has none
    if recipe:
        files["/".join(Path(recipe).parts[-2:])] = Path(recipe)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in sorted(files.items())}


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
    changes = [
        f"config.{key} changed from {old['config'].get(key)} to {new['config'].get(key)}"
        for key in sorted(old["config"].keys() | new["config"].keys())
        if old["config"].get(key) != new["config"].get(key)
    ]
    changes += [
        f"inputs.{name} changed"
        for name in sorted(old["inputs"].keys() | new["inputs"].keys())
        if old["inputs"].get(name) != new["inputs"].get(name)
    ]
    if old["code_version"] != new["code_version"]:
        changes.append(f"the version of underheard changed from {old['code_version']} to {new['code_version']}")
    return ", ".join(changes)


def _warn_of_changed_sources(old: dict[str, str], new: dict[str, str], what: str, advice: str) -> None:
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed and PartialState().is_main_process:
        logger.warning("%s, but the code changed since: %s; %s", what, first_few(changed), advice)
