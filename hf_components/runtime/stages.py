"""Stages: work done in a temporary folder and renamed into place, with `stage.json` as completion record."""

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
from hf_components.runtime.locks import alone_in

logger = logging.getLogger(__name__)

COMPLETION = "stage.json"
STARTED = "started.json"  # what an unfinished stage was started with
PACKAGES = (
    "hf_components",
    "dataset_scripts",
)  # whose sources count as the code of a stage, with the recipe's own file
# Fields that change how a stage runs or where it writes, not what it computes.
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
    """Run `produce(folder)` and put its folder at `output_dir` once it is complete.

    Args:
        output_dir: where the finished folder goes. An earlier result of a stage is replaced, anything else refused.
        produce: writes its files into the folder it is given and returns JSON-serialisable metrics. With `resume`
            the folder may hold the files of an interrupted run with the same settings and inputs.
        config: dataclass, dict, or sequence of them; recorded, and part of the fingerprint.
        inputs: files and folders read; their fingerprints are part of this stage's.
        resume: continue an interrupted run or return the earlier metrics if settings, inputs and package version
            are the same, or say what differs. Other changes of the code throw no work away, but are warned of.
        alone: only the main process produces, the others wait; else `produce` shares its work among processes.
        archive: keep an earlier result that is replaced, as `archive/<name>_<time of its end>` beside it.
    Returns:
        the metrics of `produce`.
    Raises:
        UserError: `output_dir` cannot be written, is being written by another run, holds something that is not a
            stage's result, or its disk is full.
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
                f"{output_dir} is not empty and not the result of a stage ({COMPLETION} is missing); "
                "choose another --output_dir or empty it"
            )
        fingerprints = {name: fingerprint(path) for name, path in inputs.items()}
        identity = {"config": _result_relevant(resolved, inputs), "inputs": fingerprints, "code_version": __version__}
        return {"identity": identity, "sources": _source_digests(produce)}, completion, _read_started(work)

    # One process looks, so that all decide alike whatever their disks say.
    stage, completion, unfinished = broadcast_object_list([look() if state.is_main_process else None])[0]

    goes_on = resume and unfinished is not None and unfinished["identity"] == stage["identity"]
    if goes_on:  # also over a finished result of the same settings, which the interrupted run was to replace
        _warn_of_changed_sources(
            unfinished["sources"],
            stage["sources"],
            f"the interrupted run of {output_dir} goes on",
            "to begin anew, run without --resume",
        )
    elif resume and completion is not None and completion["identity"] == stage["identity"]:
        _warn_of_changed_sources(
            completion.get("sources", {}),
            stage["sources"],
            f"{output_dir} is complete and kept",
            f"to make it anew, delete {output_dir}",
        )
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
        if read_completion(work) is None:  # else it was killed between the completion record and the renaming
            with full_disk_explained(output_dir):
                _produce(work, produce, {**stage, "config": resolved}, alone)
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
    """`run_stage` of a recipe, with the folder and the flags that its arguments name.

    Args:
        produce: called with the arguments and the folder to fill; returns metrics.
        arguments: parsed dataclasses, which have `output_dir` and `resume`, and perhaps `rebase_output_dir`. With
            `TrainingArguments` the number of processes is part of the fingerprint.
        inputs: files, folders and Hub ids that are read; None is left out.
        alone: see `run_stage`.
    """
    given = {name: value for part in arguments for name, value in vars(part).items()}
    trained = [part for part in arguments if isinstance(part, transformers.TrainingArguments)]

    @functools.wraps(produce)  # so that the recipe's own code is recorded
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
    """The processes that the launcher started for this run; called before anything else asks for them."""
    # Long, since the others wait while the main process works alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=12))


def read_completion(folder: str | Path) -> dict | None:
    """The content of a finished stage's `stage.json`, or None.

    Raises:
        UserError: the file is damaged.
    """
    return _read_json(Path(folder) / COMPLETION)


def fingerprint(path: str | Path) -> str:
    """A digest of a file or folder that changes with its content.

    A finished stage answers with its own fingerprint. Elsewhere small files (under 1 MiB) count by content, large
    ones by size and time of change. What does not exist on disk (a Hub id) counts by its name.
    """
    path = Path(path)
    completion = read_completion(path)
    if completion is not None:
        return completion["fingerprint"]
    if not path.exists():
        return str(path)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return _digest([(p.name if p == path else p.relative_to(path).as_posix(), _fingerprint_file(p)) for p in files])


def environment() -> dict:
    """Versions and hardware, as recorded beside every result."""
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
    """Write JSON so that a reader finds the old file or the new one, never half of it.

    Raises:
        UserError: the disk is full.
    """
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
    """What the unfinished stage in `work` was started with; None if there is none, or none that says so."""
    return read_completion(work) or _read_json(work / STARTED)


def _interrupted(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(".partial") + ".interrupted")


def _set_aside(work: Path, unfinished: dict | None, stage: dict, resume: bool) -> None:
    """Empty `work`, whose run does not go on; what it holds may have taken days, and is kept until the new run is
    complete."""
    if not any(work.iterdir()):
        return
    if not resume:
        why = "--resume would have continued it if nothing changed"
    elif unfinished is None:
        why = "it does not say what it was started with"
    else:
        why = _difference(unfinished["identity"], stage["identity"])
    kept = _interrupted(work)
    logger.warning(
        "the interrupted run in %s is set aside: %s; it is kept in %s until this run is complete, and goes on if "
        "put back",
        work,
        why,
        kept,
    )
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for path in list(work.iterdir()):  # not the folder, which is locked
        path.rename(kept / path.name)


def _produce(work: Path, produce: Callable[[Path], dict], stage: dict, alone: bool) -> None:
    state = PartialState()
    start = time.time()
    metrics = produce(work) if state.is_main_process or not alone else None
    state.wait_for_everyone()
    if state.is_main_process:
        sync_folder(
            work
        )  # before the completion record, or a file that never reached the disk would be taken for whole
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
    if hasattr(config, "to_sanitized_dict"):  # TrainingArguments, without tokens
        config = config.to_sanitized_dict()
    values = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config
    return json.loads(json.dumps(values, default=_jsonable))  # as it is read back for comparison


def _named(inputs: Iterable[str | Path]) -> dict[str, str]:
    """Inputs by file name, so that moving a run does not repeat it; two of one name are told apart by number."""
    named: dict[str, str] = {}
    for path in map(str, inputs):
        name = Path(path).name
        named[f"{name} ({len(named) + 1})" if name in named else name] = path
    return named


def _result_relevant(config: dict, inputs: dict[str, str]) -> dict:
    # An input counts by its name and content, not by where it lies.
    names = {path: name for name, path in inputs.items()}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {key: named(value) for key, value in config.items() if key not in NOT_PART_OF_RESULT}


def _source_digests(produce: Callable) -> dict[str, str]:
    root = Path(__file__).parents[2]
    files = {
        path.relative_to(root).as_posix(): path for package in PACKAGES for path in (root / package).rglob("*.py")
    }
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
