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
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import accelerate
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from hf_components import __version__
from hf_components.runtime.disk import WRITTEN, atomic_write, full_disk_explained, sync, sync_folder, written_files
from hf_components.runtime.errors import UserError, first_few
from hf_components.runtime.files import files_below
from hf_components.runtime.locks import alone_in
from hf_components.runtime.records import (
    FILES,
    NUMBER,
    check_files,
    describe_file,
    describe_files,
    file_digest,
    read_record,
    sealed,
)

logger = logging.getLogger(__name__)

COMPLETION = "stage.json"
SUMMARY = ".summary.json"  # end of the name of a record beside the files that it is about
SCRATCH = ".scratch"  # folder for work in an unfinished stage; deleted once its completion record is there
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
MOUNTS = Path("/proc/self/mountinfo")  # also names folders of the same disk, as containers mount them
DEEPEST = 3  # folders between a finished stage and what is read from it
Derive = Callable[[Path, Path], None]  # function of a finished folder and of an empty one, which it fills
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
    "plot_method",
    "merge",  # the merged model is made from the trained adapter
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
    derive: Mapping[str, Derive] = MappingProxyType({}),
) -> dict:
    """Run `produce(folder)`, and rename the folder to `output_dir` when it is complete.

    Args:
        output_dir: path of the finished folder. An earlier result of a stage is replaced, anything else is an error.
        produce: function that writes its files into the given folder and returns JSON-serialisable metrics. With
            `resume` the folder may hold the files of an interrupted run with the same settings and inputs. What only a
            run that goes on needs is in its folder `SCRATCH`, and is no part of the result.
        config: dataclass, dict, or sequence of them; recorded, and part of the fingerprint.
        inputs: files and folders that are read; their fingerprints are part of the stage's fingerprint.
        resume: if settings, inputs and package version are the same, continue an interrupted run or return the metrics
            of a complete one; else log the difference and run again. Other changes of the code only cause a warning.
        alone: only the main process calls `produce`, the others wait; else `produce` shares its work among processes.
        archive: keep the earlier result as `archive/<name>_<time of its end>` beside it.
        derive: settings that only ask for files which follow from the result, such as plots, and for each the function
            that makes these files from the finished folder. `produce` makes them too. The settings are no part of the
            fingerprint: if a result is kept that was made without them, or with others, only these files are made.
    Returns:
        the metrics of `produce`.
    Raises:
        UserError: `output_dir` cannot be written or replaced, another run is writing it, it holds something else than
            the result of a stage, or its disk is full; or files of it or of a stage that it reads were changed.
    """
    output_dir = _replaceable(Path(output_dir))
    state = join_processes()
    work = output_dir.with_name(f".{output_dir.name}.partial")
    resolved = _plain(config)
    inputs = _named(inputs)
    left_out = NOT_PART_OF_RESULT | derive.keys()
    defaults = _defaults(config)

    def look() -> tuple[dict, dict | None, dict | None]:
        completion = read_completion(output_dir)
        if completion is None and output_dir.is_dir() and any(output_dir.iterdir()):
            raise UserError(
                f"{output_dir} is not empty and not the result of a stage ({COMPLETION} is missing); choose another "
                "--output_dir or empty it"
            )
        unfinished = _read_started(work)
        known = [record["identity"]["inputs"] for record in (completion, unfinished) if record is not None]
        fingerprints = {
            name: fingerprint(path, [recorded[name] for recorded in known if name in recorded])
            for name, path in inputs.items()
        }
        identity = {
            "config": _result_relevant(resolved, inputs, left_out),
            "inputs": fingerprints,
            "code_version": __version__,
        }
        return {"identity": identity, "sources": _source_digests(produce)}, completion, unfinished

    def decide() -> tuple[dict, dict | None, dict | None, bool, bool]:
        # Only one process looks, so that all of them decide the same even if their disks differ.
        stage, completion, unfinished = broadcast_object_list([look() if state.is_main_process else None])[0]
        goes_on = (
            resume
            and unfinished is not None
            and _is_same(unfinished["identity"], stage["identity"], left_out, defaults)
        )
        # Not if there is an interrupted run with the same settings: it was to replace the result.
        is_kept = resume and not goes_on and completion is not None
        is_kept = is_kept and _is_same(completion["identity"], stage["identity"], left_out, defaults)
        return stage, completion, unfinished, goes_on, is_kept

    stage, completion, unfinished, goes_on, is_kept = decide()
    if not is_kept:
        with alone_in(work, "--output_dir") if state.is_main_process else contextlib.nullcontext():
            # Again, because another run may have ended in between.
            stage, completion, unfinished, goes_on, is_kept = decide()
            if goes_on:
                advice = "to start anew, use --force_restart"
                continued = f"the interrupted run of {output_dir} is continued"
                _warn_of_changed_sources(unfinished["sources"], stage["sources"], continued, advice)
            elif resume and completion is not None and not is_kept:
                logger.info("%s runs again: %s", output_dir, _difference(completion["identity"], stage["identity"]))
            if not is_kept:
                if state.is_main_process:
                    if goes_on:
                        _check_written(work)
                    else:
                        _set_aside(work, unfinished, stage, resume)
                    write_record(work / STARTED, stage)
                state.wait_for_everyone()
                is_written = read_completion(work) is not None  # it was killed before the renaming
                if not is_written:
                    try:
                        with full_disk_explained(output_dir):
                            places = {name: _place_of(path, output_dir) for name, path in inputs.items()}
                            _produce(work, produce, {**stage, "config": resolved, "places": places}, alone)
                    except UserError:
                        if state.is_main_process and not _holds_work(work):
                            shutil.rmtree(work, ignore_errors=True)  # nothing that a next run could continue
                        raise
                state.wait_for_everyone()
                if state.is_main_process:
                    _replace(work, output_dir, archive)
                state.wait_for_everyone()
    if is_kept:
        advice = f"to run it again, delete {output_dir}"
        asked = [name for name in derive if resolved.get(name) and completion["config"].get(name) != resolved[name]]
        # A run that was stopped while it added files may have left some that are not recorded yet.
        if state.is_main_process and not (asked and _added(output_dir).exists()):
            _check_content(output_dir, completion)
        kept = f"{output_dir} is complete and kept"
        _warn_of_changed_sources(completion.get("sources", {}), stage["sources"], kept, advice)
        if asked:
            if state.is_main_process:
                _add(output_dir, {name: derive[name] for name in asked}, {name: resolved[name] for name in asked})
            state.wait_for_everyone()
        elif resolved.get("plot") and completion["config"].get("plot") is False and "plot" not in derive:
            logger.warning("%s was made without plots; to draw them, delete it", output_dir)
        logger.info("%s is complete, skipped", output_dir)
        return completion["metrics"]
    completion = read_completion(output_dir)
    logger.info("%s written in %.0f s", output_dir, completion["seconds"])
    return completion["metrics"]


def run_as_stage(
    produce: Callable[..., dict],
    *arguments: Any,
    inputs: Iterable[str | Path | None] = (),
    alone: bool = False,
    derive: Mapping[str, Derive] = MappingProxyType({}),
) -> dict:
    """`run_stage` of a recipe, with `output_dir` and `resume` from its arguments.

    Args:
        produce: function of the arguments and the folder to fill; returns metrics.
        arguments: parsed dataclasses with `output_dir` and `resume`, and perhaps `rebase_output_dir`. If one is a
            `TrainingArguments`, the number of processes is part of the fingerprint.
        inputs: files, folders and Hub ids that are read; None is ignored.
        alone, derive: see `run_stage`.
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
        derive=derive,
    )


def join_processes() -> PartialState:
    """Join the processes that the launcher started for this run. Must come before any other use of `PartialState`."""
    # The timeout is long because the other processes wait while the main one works alone.
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(hours=12))


def read_completion(folder: str | Path) -> dict | None:
    """The content of a finished stage's `stage.json`, or None. Raises UserError if the file is damaged."""
    file = Path(folder) / COMPLETION
    if not file.is_file():
        return None
    return read_record(file, COMPLETION_FORM, f"delete {folder} and run the stage again")


def fingerprint(path: str | Path, known: Iterable[str] = ()) -> str:
    """A digest of a file or folder that changes with its content.

    A finished stage has its recorded fingerprint. A path that is not on the disk (a Hub id) counts by its name.

    Args:
        known: fingerprints in earlier records. One that an earlier version gave the same files is returned.
    Raises:
        UserError: files of a finished stage are not those that it wrote.
    """
    path = Path(path)
    stage, completion = _stage_around(path)
    if completion is not None:
        _check_content(stage, completion, path)
        if stage == path:
            return completion["fingerprint"]
    check_beside(path)
    if not path.exists():
        return str(path)
    if known and (earlier := fingerprint_of_earlier_versions(path)) in known:
        return earlier
    return _fingerprint(path, file_digest)


def fingerprint_of_earlier_versions(path: str | Path) -> str:
    """The fingerprint that earlier versions gave a path: large files counted by size and time of change."""
    path = Path(path)
    if (completion := read_completion(path)) is not None:
        return completion["fingerprint"]
    return _fingerprint(path, _file_fingerprint_of_earlier_versions) if path.exists() else str(path)


def check_stage(path: str | Path) -> bool:
    """Make sure that the files at `path` are those that its stage wrote. Returns whether a record describes them.

    Raises:
        UserError: they are not.
    """
    stage, completion = _stage_around(Path(path))
    if completion is not None:
        _check_content(stage, completion, Path(path))
    return completion is not None and "files" in completion


def check_beside(path: Path) -> None:
    """Raise UserError if a file is not what the record beside it says, such as `a.summary.json` beside `a.jsonl`."""
    record = path.with_suffix(SUMMARY)
    if path.is_file() and record.is_file():
        remedy = f"write {path} again, or, to use it as it is, delete {record}"
        described = read_record(record, {"files?": FILES}, remedy).get("files", {})
        check_files(path.parent, {name: was for name, was in described.items() if name == path.name}, remedy, path)


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


def write_record(file: Path, record: dict, files: Iterable[Path] = ()) -> None:
    """Write JSON with its seal, see `sealed`.

    Args:
        files: files in the same folder that the record is about; their content is recorded, and `read_record` and
            `check_files` find a change.
    """
    described = {path.name: describe_file(path) for path in files}
    write_json(file, sealed(_plain({**record, "files": described} if described else record)))


def _place_of(path: str, output_dir: Path) -> str:
    """Where an input lies: from beside the stage if it is there or below, so that a run may be moved."""
    if not Path(path).exists():  # a Hub id
        return path
    place = Path(path).absolute()
    around = output_dir.absolute().parent
    return place.relative_to(around).as_posix() if place.is_relative_to(around) else str(place)


def _replaceable(output_dir: Path) -> Path:
    """The folder to replace; behind a link, the one that it names. Raises UserError if it cannot be replaced."""
    if output_dir.is_symlink():
        output_dir = Path(os.path.realpath(output_dir))
    is_other = output_dir.is_symlink() or (output_dir.exists() and not output_dir.is_dir())
    if output_dir.name in ("", "..") or is_other:
        raise UserError(f"--output_dir must name a folder that may be replaced, got {output_dir}; choose one")
    if _is_mounted(output_dir):
        raise UserError(
            f"--output_dir must name a folder that may be replaced, but {output_dir} is where a disk or volume is "
            f"mounted; choose a folder on it, such as {output_dir / 'result'}"
        )
    return output_dir


def _is_mounted(folder: Path) -> bool:
    if not MOUNTS.exists():
        return folder.is_mount()
    places = (line.split()[4] for line in MOUNTS.read_text(errors="surrogateescape").splitlines())
    return os.path.realpath(folder) in {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), one) for one in places}


def _stage_around(path: Path) -> tuple[Path, dict | None]:
    """The finished stage at `path` or in which it lies, and its record; `path` itself and None if there is none."""
    for folder in (path, *list(path.absolute().parents)[:DEEPEST]):
        file = folder / COMPLETION
        if file.is_file():
            stat = file.stat()
            return folder, _remembered(str(folder), stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return path, None


@functools.lru_cache(maxsize=16)
def _remembered(folder: str, *state: int) -> dict:
    """The record of a stage, which is read once as long as it does not change: a stage may hold many files."""
    return read_completion(folder)


def _check_content(stage: Path, completion: dict, below: Path | None = None) -> None:
    if "files" in completion:  # earlier versions did not record them
        remedy = (
            f"make {stage} again: delete it and run its command; or, to use it as it is, delete {stage / COMPLETION}"
        )
        check_files(
            stage, completion["files"], remedy, below and stage / below.absolute().relative_to(stage.absolute())
        )


def _read_started(work: Path) -> dict | None:
    """The record of the unfinished stage in `work`, or None."""
    if (completion := read_completion(work)) is not None:
        return completion
    file = work / STARTED
    return read_record(file, STARTED_FORM, f"delete {work} to start again") if file.exists() else None


def _interrupted(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(".partial") + ".interrupted")


def _holds_work(work: Path) -> bool:
    """Whether the folder of an unfinished stage holds more than the record of its start, and locks of `datasets`."""
    files = (path for path in work.rglob("*") if path.is_file() and path.suffix != ".lock")
    return any(path not in (work / STARTED, work / WRITTEN) for path in files)


def _check_written(work: Path) -> None:
    """Raise UserError if a file that an interrupted run has written is another one now; see `atomic_write`."""
    if (completion := read_completion(work)) is not None:
        return _check_content(work, completion)
    for place, digests in written_files(work).items():
        path = work / place
        if path.is_file() and file_digest(path) not in digests:
            remedy = f"delete it, or all of {work} to start again, and run the same command"
            raise UserError(f"{path} was changed after it was written; {remedy}")


def _set_aside(work: Path, unfinished: dict | None, stage: dict, resume: bool) -> None:
    """Move an interrupted run out of `work`. It may have taken days, so it is kept until the new run is complete."""
    if not _holds_work(work):
        return
    if not resume:
        why = "it was to start anew"
    elif unfinished is None:
        why = "it has no record of its settings"
    else:
        why = _difference(unfinished["identity"], stage["identity"])
    kept = _interrupted(work)
    text = "the interrupted run in %s is set aside: %s; it is kept in %s until this run is complete; to continue it, "
    text += "move it back and run its own command, without --force_restart"
    logger.warning(text, work, why, kept)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for path in list(work.iterdir()):  # the files, not the folder, which is locked
        path.rename(kept / path.name)
    for folder in (kept, work, work.parent):
        sync(folder)


def _produce(work: Path, produce: Callable[[Path], dict], stage: dict, alone: bool) -> None:
    state = PartialState()
    start = time.monotonic()
    metrics = produce(work) if state.is_main_process or not alone else None
    state.wait_for_everyone()
    if state.is_main_process:
        sync_folder(work)  # before the completion record: it must not exist if a file did not reach the disk
        files = describe_files(work, without=(STARTED,))
        digest = _digest({key: stage[key] for key in ("identity", "sources")})
        write_record(
            work / COMPLETION,
            {
                "fingerprint": digest,
                **stage,
                "metrics": metrics,
                "seconds": round(time.monotonic() - start, 1),
                "files": files,
                "environment": environment(),
            },
        )


def _replace(work: Path, output_dir: Path, archive: bool) -> None:
    for of_unfinished in (STARTED, WRITTEN):
        (work / of_unfinished).unlink(missing_ok=True)
    if (work / SCRATCH).exists():
        shutil.rmtree(work / SCRATCH)
    sync(work)
    if archive and (output_dir / COMPLETION).exists():
        ended = time.strftime("%Y%m%d-%H%M%S", time.localtime((output_dir / COMPLETION).stat().st_mtime))
        archived = output_dir.with_name("archive")
        archived.mkdir(exist_ok=True)
        numbers = ("", *(f"-{number}" for number in range(2, len(list(archived.iterdir())) + 3)))
        kept = next(
            path for number in numbers if not (path := archived / f"{output_dir.name}_{ended}{number}").exists()
        )
        output_dir.rename(kept)
        logger.info("the earlier result is kept as %s", kept)
    old = output_dir.with_name(f".{output_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        with contextlib.suppress(FileNotFoundError):
            output_dir.rename(old)
        work.rename(output_dir)
        sync(output_dir.parent)  # before the earlier result is deleted
    except OSError as error:
        raise UserError(
            f"the result is complete, but cannot be moved from {work} to {output_dir} ({error.strerror}); make room "
            "there, then run the same command again"
        ) from error
    for left in (old, _interrupted(work)):
        shutil.rmtree(left, ignore_errors=True)


def _added(output_dir: Path) -> Path:
    return output_dir.with_name(f".{output_dir.name}.added")


def _add(output_dir: Path, derive: Mapping[str, Derive], settings: dict[str, Any]) -> None:
    """Add to a finished stage the files that follow from its result, and record them."""
    new = _added(output_dir)
    with alone_in(new, "--output_dir"), full_disk_explained(output_dir):
        for path in new.iterdir():  # of a run that was stopped
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for function in dict.fromkeys(derive.values()):
            function(output_dir, new)
        added = sorted(path.relative_to(new).as_posix() for path in files_below(new, hidden=True) if path.is_file())
        for place in added:
            (output_dir / place).parent.mkdir(parents=True, exist_ok=True)
            (new / place).replace(output_dir / place)
        # Read again: the same record may have been changed while this run waited.
        completion = read_completion(output_dir)
        completion["config"] |= settings
        if "files" in completion:
            there = {path.relative_to(output_dir).as_posix() for path in files_below(output_dir)}
            completion["files"] |= describe_files(output_dir, without=there - set(added))
        write_record(output_dir / COMPLETION, completion)
        shutil.rmtree(new)
    logger.info("%s: %s", output_dir, f"added what --{' --'.join(settings)} asks for: {first_few(added)}")


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


def _result_relevant(config: dict, inputs: dict[str, str], left_out: Iterable[str]) -> dict:
    # An input counts by its name and content, not by its path.
    names = {path: name for name, path in inputs.items()}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {key: named(value) for key, value in config.items() if key not in left_out}


def _is_same(recorded: dict, identity: dict, left_out: Iterable[str], defaults: Mapping[str, Any]) -> bool:
    """Whether the result is the same, also if settings were added or left out since it was recorded."""
    config = {key: value for key, value in recorded["config"].items() if key not in left_out}
    # A flag that is new since then does by default what was done without it.
    now = {
        key: value
        for key, value in identity["config"].items()
        if key in recorded["config"] or key not in defaults or value != defaults[key]
    }
    return {**recorded, "config": config} == {**identity, "config": now}


def _defaults(config: Any) -> dict[str, Any]:
    """The default of each flag in dataclasses of arguments."""
    parts = config if isinstance(config, (list, tuple)) else (config,)
    fields = [field for part in parts if dataclasses.is_dataclass(part) for field in dataclasses.fields(part)]
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


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


def _fingerprint(path: Path, digest: Callable[[Path], str]) -> str:
    files = [path] if path.is_file() else sorted(p for p in files_below(path, hidden=True) if p.is_file())
    return _digest([(p.name if p == path else p.relative_to(path).as_posix(), digest(p)) for p in files])


def _file_fingerprint_of_earlier_versions(path: Path) -> str:
    """Content of small files, size and time of large ones."""
    stat = path.stat()
    return file_digest(path) if stat.st_size < 2**20 else f"{stat.st_size}:{stat.st_mtime_ns}"


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
