"""Read back what the project wrote: JSON of a known form, and folders whose files must not have changed."""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_components.runtime.errors import UserError, first_few
from hf_components.runtime.files import files_below
from hf_components.runtime.memory import is_want_of_memory

NUMBER = (int, float)
# For people: no recipe reads them as what a stage wrote; import_annotations reads them corrected by Praat or ELAN.
OPEN_TO_EDITS = (".md", ".png", ".html", ".log", ".TextGrid", ".eaf")
READ_BY_PATTERN = (".parquet", ".safetensors")  # a reader takes every such file of a folder
CHECKPOINTS = "checkpoint-"  # folders that people delete for the space
SEAL = "seal"  # SHA-256 of all else in a record


def read_record(file: str | Path, form: Any, remedy: str) -> Any:
    """The content of a JSON file, which must have a form.

    Args:
        form: a type, a tuple of types, `[form]` for a list, `{name: form}` for an object that may have more names, or
            `{str: form}` for an object with any names. A name that ends in "?" may be missing. Numbers are finite, and
            `bool` is no number.
        remedy: what to do with a damaged file, for the message.
    Raises:
        UserError: the file cannot be read, is no JSON in UTF-8, has another form, or is not what was `sealed`.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; {remedy}") from error
    return parse_record(content, form, str(file), remedy)


def parse_record(content: str | bytes, form: Any, name: str, remedy: str) -> Any:
    """The same as `read_record` for text that was read already; `name` says where it is from."""
    try:
        value = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {error}; {remedy}") from error
    if problem := next(_problems(value, form, ""), None):
        raise UserError(f"{name} is damaged: {problem}; {remedy}")
    if isinstance(value, dict) and value.get(SEAL, _seal(value)) != _seal(value):
        raise UserError(f"{name} is damaged, or was edited: its {SEAL} is that of another content; {remedy}")
    return value


def sealed(record: dict) -> dict:
    """The record, which must be JSON, with its digest: `read_record` then finds any change, such as another figure."""
    return {**record, SEAL: _seal(record)}


def _seal(record: dict) -> str:
    content = {name: value for name, value in record.items() if name != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _problems(value: Any, form: Any, place: str) -> Iterator[str]:
    """Words for each part of a value that has not its form."""
    where = place or "the content"
    if isinstance(form, list):
        if not isinstance(value, list):
            yield f"{where} must be a list, got {_short(value)}"
            return
        for i, one in enumerate(value):
            yield from _problems(one, form[0], f"{where}[{i}]")
    elif isinstance(form, Mapping):
        if not isinstance(value, dict):
            yield f"{where} must be an object, got {_short(value)}"
            return
        if str in form:
            for name, one in value.items():
                yield from _problems(one, form[str], _inside(place, name))
            return
        for name, part in form.items():
            known = name.removesuffix("?")
            if known in value:
                yield from _problems(value[known], part, _inside(place, known))
            elif known == name:
                yield f"{_inside(place, name)} is missing"
    else:
        yield from _problems_of_scalar(value, form if isinstance(form, tuple) else (form,), where)


def _problems_of_scalar(value: Any, kinds: tuple, where: str) -> Iterator[str]:
    if object in kinds or (value is None and None in kinds):
        return
    fits = isinstance(value, tuple(kind for kind in kinds if kind is not None))
    if not fits or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
        yield f"{where} must be {names}, got {_short(value)}"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} must be a finite number, got {value}"


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


@contextlib.contextmanager
def damage_named(file: str | Path, remedy: str) -> Iterator[None]:
    """Raise a `UserError` that names `file` if what is read from it within the block is no table, weights or numbers.

    For files that are no JSON, see `read_record`, and that libraries read, each with errors of its own.
    """
    try:
        yield
    except (UserError, FileNotFoundError):  # the caller knows what should have written a missing file
        raise
    except Exception as error:  # `tokenizers` raises no more specific one
        if is_want_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{file} is damaged: {reason}; {remedy}") from error


FILES = {str: {"size": int, "sha256": str}}  # the form of what `describe_files` returns


def describe_files(folder: Path, without: Iterable[str] = ()) -> dict[str, dict]:
    """Size and SHA-256 of every file below a folder, by path.

    Args:
        without: paths that are left out. Hidden files are left out too.
    """
    found = {}
    for path in sorted(files_below(folder)):
        place = path.relative_to(folder).as_posix()
        if place not in without and path.is_file():
            found[place] = describe_file(path)
    return found


def describe_file(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


def check_files(folder: Path, recorded: dict[str, dict], remedy: str, below: Path | None = None) -> None:
    """Make sure that the files of a folder are those that its record describes.

    Every file is read, large ones too: a disk that decays changes neither size nor time. Files for people, such as
    cards and plots, may have been edited.

    Args:
        recorded: result of `describe_files`.
        remedy: what to do if a file is another one, for the message.
        below: only files in this folder, or this file; by default all.
    Raises:
        UserError: a file has another content, is missing (outside of folders of checkpoints), or is a table or weights
            that the record does not name.
    """
    below = below or folder
    looked_at = recorded
    if below != folder:
        inside = below.relative_to(folder).as_posix()
        if below.is_file():
            looked_at = {inside: recorded[inside]} if inside in recorded else {}
        else:
            looked_at = {place: was for place, was in recorded.items() if place.startswith(f"{inside}/")}
    changed = [problem for place in looked_at if (problem := changed_file(folder, place, recorded[place]))]
    if below.is_dir():
        places = (path.relative_to(folder).as_posix() for path in files_below(below))
        more = (place for place in places if place.endswith(READ_BY_PATTERN) and place not in recorded)
        changed += [f"{place} is new" for place in sorted(more)]
    if changed:
        raise UserError(f"{folder} was changed after it was written: {first_few(changed, 3)}; {remedy}")


def changed_file(folder: Path, place: str, was: dict) -> str | None:
    """Words for how a file of a folder differs from its description; None if it does not, or may."""
    path = folder / place
    if place.endswith(OPEN_TO_EDITS):
        return None
    if not path.is_file():
        return None if place.startswith(CHECKPOINTS) or f"/{CHECKPOINTS}" in place else f"{place} is missing"
    is_same = path.stat().st_size == was["size"] and file_digest(path) == was["sha256"]
    return None if is_same else f"{place} has another content"


def file_digest(path: Path) -> str:
    """SHA-256 of a file. In one process, a file is read once as long as it does not change."""
    stat = path.stat()
    return _digest(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=100_000)
def _digest(path: str, *state: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
