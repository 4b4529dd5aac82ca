"""JSON lines: one object per line."""

import json
from collections.abc import Iterator
from pathlib import Path

from hf_components.errors import UserError


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Each object with the number of its line, from 1; blank lines, a byte order mark and CRLF are allowed.

    Raises:
        UserError: the file cannot be read, or a line (which is named) is not UTF-8 text or not a JSON object.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); was the file cut short?") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {line[:80].decode(errors='replace')}")
        yield number, row


def text_field(row: dict, name: str, path: str | Path, line: int) -> str:
    """A field that must hold a string.

    Raises:
        UserError: it is missing or something else, with file and line.
    """
    if not isinstance(row.get(name), str):
        raise UserError(f"{path}, line {line}: {name} must be a string, got {row.get(name)!r}; the line has "
                        f"{', '.join(row) or 'no fields'}")
    return row[name]
