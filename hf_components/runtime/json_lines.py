"""JSON lines (one object per line), and the field names of manifests and transcripts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_components.runtime.errors import UserError
from hf_components.runtime.files import why_unreadable

ID = "utterance_id"
TEXT = "orthographic_text"
PHONETIC = "phonetic_text"
SPEAKER = "child_id"
GROUP = "age_bucket"


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Line number, from 1, and object of each line. Blank lines, a byte order mark and CRLF are allowed.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 text or not a JSON object; its number is given.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {why_unreadable(path, error)}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
            json.dumps(row, ensure_ascii=False).encode()  # fails for half a surrogate pair: valid JSON, but no text
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); was the file cut short?") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {line[:80].decode(errors='replace')}")
        yield number, row


def text_field(row: dict, name: str, path: str | Path, line: int) -> str:
    """A field that must hold a string; else raises UserError with file and line."""
    if not isinstance(row.get(name), str):
        raise UserError(
            f"{path}, line {line}: {name} must be a string, got {row.get(name)!r}; the line has "
            f"{', '.join(row) or 'no fields'}"
        )
    return row[name]


def as_id(value: Any) -> str | None:
    """The id as text, from a string (stripped) or an integer; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def as_label(value: Any) -> str | None:
    """A label as text, from a string (stripped) or a number such as 5; None for an empty one, for NaN and for None.

    Raises:
        TypeError: the value is of another type.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise TypeError(f"expected a string or a number, got {value!r}")
    if value is None or value != value:  # pandas writes NaN for a missing value
        return None
    return (f"{value:g}" if isinstance(value, float) else str(value)).strip() or None


def label_field(row: dict, name: str, path: str | Path, line: int) -> str | None:
    """A field that may hold a label, see `as_label`; else raises UserError with file and line."""
    try:
        return as_label(row.get(name))
    except TypeError as error:
        raise UserError(f"{path}, line {line}: {name}: {error}") from error


def id_field(row: dict, name: str, path: str | Path, line: int) -> str:
    """A field that must hold an id, see `as_id`; else raises UserError with file and line."""
    found = as_id(row.get(name))
    if found is None:
        raise UserError(
            f"{path}, line {line}: {name} must be a string that is not empty, or an integer, got {row.get(name)!r}; "
            f"the line has {', '.join(row) or 'no fields'}"
        )
    return found


def read_by_id(path: str | Path, name: str = ID) -> Iterator[tuple[int, str, dict]]:
    """Line number, id and object of each line.

    Raises:
        UserError: an id appears twice, or for the reasons of `read_json_lines` and `id_field`.
    """
    lines: dict[str, int] = {}
    for line, row in read_json_lines(path):
        found = id_field(row, name, path, line)
        if found in lines:
            raise UserError(
                f"{path}, line {line}: {name} {found} is already on line {lines[found]}; every id must appear once, "
                "remove one of the two lines"
            )
        lines[found] = line
        yield line, found, row
