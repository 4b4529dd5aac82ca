"""The folder of a stage: filled beside its place, set aside, put in its place, added to."""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_components.runtime.completion import COMPLETION, STARTED, environment, read_completion, write_record
from hf_components.runtime.disk import WRITTEN, full_disk_explained, sync, sync_folder, written_files
from hf_components.runtime.errors import UserError, first_few
from hf_components.runtime.files import files_below
from hf_components.runtime.fingerprints import check_content, digest_of
from hf_components.runtime.locks import alone_in
from hf_components.runtime.records import describe_files, file_digest
from hf_components.runtime.stage_identity import difference

logger = logging.getLogger(__name__)

SCRATCH = ".scratch"  # folder for work in an unfinished stage; deleted once its completion record is there
MOUNTS = Path("/proc/self/mountinfo")  # also names folders of the same disk, as containers mount them
Derive = Callable[[Path, Path], None]  # function of a finished folder and of an empty one, which it fills


def replaceable(output_dir: Path) -> Path:
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


def require_apart(
    output: str | Path, read: Iterable[str | Path], *, flag: str = "--output_dir", wholly: bool = False
) -> None:
    """Raise UserError if a result would replace what it is made of, or would itself be read by the next run.

    Args:
        read: files and folders that are read; names of the Hub among them do not matter.
        flag: flag that chose the output, for messages.
        wholly: every recording in the folders is read, so that sound among the results would be read too.
    """
    result = Path(os.path.realpath(output))
    for path in read:
        place = Path(os.path.realpath(path))
        if place.is_relative_to(result) and place.exists():
            raise UserError(f"{flag} {output} would replace {path}, which is read; choose another {flag}")
        if wholly and result.is_relative_to(place):
            raise UserError(
                f"{flag} {output} lies in {path}, of which every recording is read, the next time also those of the "
                f"result; choose a place outside"
            )


def _is_mounted(folder: Path) -> bool:
    if not MOUNTS.exists():
        return folder.is_mount()
    places = (line.split()[4] for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    return os.path.realpath(folder) in {re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), one) for one in places}


def holds_work(work: Path) -> bool:
    """Whether the folder of an unfinished stage holds more than the record of its start, and locks of `datasets`."""
    files = (path for path in work.rglob("*") if path.is_file() and path.suffix != ".lock")
    return any(path not in (work / STARTED, work / WRITTEN) for path in files)


def check_written(work: Path) -> None:
    """Raise UserError if a file that an interrupted run has written is another one now; see `atomic_write`."""
    if (completion := read_completion(work)) is not None:
        return check_content(work, completion)
    for place, digests in written_files(work).items():
        path = work / place
        if path.is_file() and file_digest(path) not in digests:
            remedy = f"delete it, or all of {work} to start again, and run the same command"
            raise UserError(f"{path} was changed after it was written; {remedy}")


def set_aside(work: Path, unfinished: dict | None, stage: dict, resume: bool) -> None:
    """Move an interrupted run out of `work`. It may have taken days, so it is kept until the new run is complete."""
    if not holds_work(work):
        return
    if not resume:
        why = "it was to start anew"
    elif unfinished is None:
        why = "it has no record of its settings"
    else:
        why = difference(unfinished["identity"], stage["identity"])
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


def _interrupted(work: Path) -> Path:
    return work.with_name(work.name.removesuffix(".partial") + ".interrupted")


def produce_into(work: Path, produce: Callable[[Path], dict], stage: dict, alone: bool) -> None:
    state = PartialState()
    start = time.monotonic()
    metrics = produce(work) if state.is_main_process or not alone else None
    state.wait_for_everyone()
    if state.is_main_process:
        sync_folder(work)  # before the completion record: it must not exist if a file did not reach the disk
        files = describe_files(work, without=(STARTED,))
        digest = digest_of({key: stage[key] for key in ("identity", "sources")})
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


def put_in_place(work: Path, output_dir: Path, archive: bool) -> None:
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


def added_folder(output_dir: Path) -> Path:
    return output_dir.with_name(f".{output_dir.name}.added")


def add_derived(output_dir: Path, derive: Mapping[str, Derive], settings: dict[str, Any]) -> None:
    """Add to a finished stage the files that follow from its result, and record them."""
    new = added_folder(output_dir)
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
