"""JSON lines (one object per line), and the field names of manifests and transcripts."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_components.runtime.errors import UserError
from hf_components.runtime.files import why_unreadable

ID = "utterance_id"
TEXT = "orthographic_text"
PHONETIC = "phonetic_text"
SPEAKER = "child_id"
GROUP = "age_bucket"
MARK = codecs.BOM_UTF8
SEEN = 4096  # bytes of a file that tell what it is
UTF_16 = "it is UTF-16, as PowerShell writes; save it as UTF-8, for example with iconv -f UTF-16 -t UTF-8"
# What people have instead of JSON lines, by its first bytes without white space before them.
INSTEAD = (
    (rb"\0\0\0\0", "it begins with zeros, as after a copy that broke off; get it again"),
    (rb"\xff\xfe|\xfe\xff|.\0.\0|\0.\0.", UTF_16),
    (rb"\x1f\x8b", "it is compressed; unpack it with gunzip"),
    (rb"PK\x03\x04", "it is a ZIP archive or a workbook; unpack it, or save it as CSV and that as JSON lines"),
    (rb"\[\s*[\[{]", "it is one JSON array; write an object per line, for example with jq -c '.[]'"),
    (rb"\{\s*\n", "its objects take several lines; write one per line, for example with jq -c ."),
    (rb"\{\s*'", "it has Python's quotes; write its objects with json.dumps"),
    (rb"\{[^\n]*\},\s*\n", "its lines end in commas; leave them out"),
    (rb"\{[^\n]*\}\r\s*\{", "its lines end in carriage returns alone; write line feeds, with tr '\\r' '\\n'"),
    (
        rb"[^{\n]*[,;\t|][^\n]*\n",
        "it looks like a table; make JSON lines of it, in pandas by to_json(FILE, orient='records', lines=True)",
    ),
)


class TwinKeysError(ValueError):
    """An object of JSON that gives a key twice: every reader would silently take one of the two values."""


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises TwinKeysError, and what `json.loads` raises."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in found if names.count(name) > 1)
        raise TwinKeysError(f"the key {twin!r} is given twice; leave one out")
    return found


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Line number, from 1, and object of each line. Blank lines, a byte order mark and CRLF are allowed.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 text or not a JSON object; its number is given.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {why_unreadable(path, error)}") from error
    for number, line in enumerate(content.removeprefix(MARK).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8"))
            json.dumps(row, ensure_ascii=False).encode()  # fails for half a surrogate pair: valid JSON, but no text
        except TwinKeysError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            remedy = what_instead(content[:SEEN]) or "was the file cut short?"
            raise UserError(f"{path}, line {number}: not JSON ({error}); {remedy}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {line[:80].decode(errors='replace')}")
        yield number, row


def write_json_lines(file: Path, rows: Iterable[dict]) -> None:
    """Write an object per line, see `read_json_lines`."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def what_instead(head: bytes) -> str | None:
    """What a file that is no JSON lines is, and how it becomes some, in words; None if its first bytes do not tell."""
    start = head.removeprefix(MARK).lstrip()
    for form, words in INSTEAD:
        if re.match(form, start, re.DOTALL):
            return words
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "it is not UTF-8; save it as that, for example with iconv -f WINDOWS-1252 -t UTF-8"
    return None


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
