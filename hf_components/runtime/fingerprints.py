"""Fingerprints of what a stage reads, and whether the files of a finished stage are still those that it wrote."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hf_components.runtime.completion import COMPLETION, SUMMARY, jsonable, read_completion
from hf_components.runtime.errors import UserError
from hf_components.runtime.files import files_below, is_stream
from hf_components.runtime.records import FILES, check_files, file_digest, read_record

DEEPEST = 3  # folders between a finished stage and what is read from it


def fingerprint(path: str | Path, known: Iterable[str] = ()) -> str:
    """A digest of a file or folder that changes with its content.

    A finished stage has its recorded fingerprint. A path that is not on the disk (a Hub id) counts by its name.

    Args:
        known: fingerprints in earlier records. One that an earlier version gave the same files is returned.
    Raises:
        UserError: files of a finished stage are not those that it wrote, or the path is a pipe or a device.
    """
    path = Path(path)
    if is_stream(path):
        raise UserError(f"{path} is a pipe or a device, which is read only once; write it to a file, and give that")
    stage, completion = _stage_around(path)
    if completion is not None:
        check_content(stage, completion, path)
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
        check_content(stage, completion, Path(path))
    return completion is not None and "files" in completion


def check_beside(path: Path) -> None:
    """Raise UserError if a file is not what the record beside it says, such as `a.summary.json` beside `a.jsonl`."""
    record = path.with_suffix(SUMMARY)
    if path.is_file() and record.is_file():
        remedy = f"write {path} again, or, to use it as it is, delete {record}"
        described = read_record(record, {"files?": FILES}, remedy).get("files", {})
        check_files(path.parent, {name: was for name, was in described.items() if name == path.name}, remedy, path)


def check_content(stage: Path, completion: dict, below: Path | None = None) -> None:
    if "files" in completion:  # earlier versions did not record them
        remedy = (
            f"make {stage} again: delete it and run its command; or, to use it as it is, delete {stage / COMPLETION}"
        )
        check_files(
            stage, completion["files"], remedy, below and stage / below.absolute().relative_to(stage.absolute())
        )


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=jsonable).encode()).hexdigest()[:16]


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


def _fingerprint(path: Path, digest: Callable[[Path], str]) -> str:
    files = [path] if path.is_file() else sorted(p for p in files_below(path, hidden=True) if p.is_file())
    return digest_of([(p.name if p == path else p.relative_to(path).as_posix(), digest(p)) for p in files])


def _file_fingerprint_of_earlier_versions(path: Path) -> str:
    """Content of small files, size and time of large ones."""
    stat = path.stat()
    return file_digest(path) if stat.st_size < 2**20 else f"{stat.st_size}:{stat.st_mtime_ns}"
