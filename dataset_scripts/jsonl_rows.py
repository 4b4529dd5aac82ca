"""Turn lines of a JSONL manifest, or samples in memory, into utterances; reject other lines with their number."""

import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dataset_scripts.transcripts import clean_transcript
from dataset_scripts.utterances import Rejection, Utterance
from hf_components.runtime import (
    PHONETIC,
    SEEN,
    TwinKeysError,
    UserError,
    as_id,
    as_label,
    parse_json,
    what_instead,
    why_unreadable,
)

REQUIRED = ("utterance_id", "child_id", "audio_path")
IDS = ("utterance_id", "child_id", "session_id")
TEXTS = (*REQUIRED, "session_id", "age_bucket", "md5_hash", "orthographic_text", PHONETIC)
FIELDS = (*TEXTS, "audio_duration_sec")
MOST_SECONDS = 86_400_000  # longest possible recording is a day; some manifests give its length in milliseconds
UNKNOWN = "unknown"
IN_MEMORY = "samples"  # replaces the name of the manifest where there is none
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(
    manifest: str | None, samples: list[dict] | None, fields: dict[str, str]
) -> tuple[list[Utterance], list[dict]]:
    """Read a manifest, or samples in memory if it is None.

    Args:
        fields: the manifest's name for each of `FIELDS` that has another name there.
    Returns:
        the utterances, and the rows of `rejected.jsonl` for the other lines.
    Raises:
        UserError: the file cannot be read, or none of its lines is a row.
    """
    name = IN_MEMORY if manifest is None else Path(manifest).name
    listed = []
    rejected = []
    for number, line in enumerate(samples, start=1) if manifest is None else _lines(manifest):
        row: dict[str, Any] = {}
        try:
            row = _row(line, fields)
            listed.append(_utterance(row, name, number))
        except Rejection as problem:
            names = [str(row.get(key) or "") for key in ("utterance_id", "audio_path")]
            rejected.append(problem.row(*names, None, name, number))
    if not listed:
        first = "".join(f", line {row['line']}: {row['reason']}: {row['detail']}" for row in rejected[:1])
        remedy = (manifest and first and what_instead(_head(manifest))) or (
            "each must be a JSON object with the fields of a manifest"
        )
        raise UserError(f"{manifest or IN_MEMORY}{first or ' is empty'}; no line can be used: {remedy}")
    return listed, rejected


def one_child_per_id(listed: Iterable[Utterance]) -> tuple[list[Utterance], list[dict]]:
    """Reject later rows that give an id to another child: the child could be on the other side of a split."""
    first = {}
    kept = []
    rejected = []
    for utterance in listed:
        earlier = first.setdefault(utterance.id, utterance)
        if earlier.speaker_id == utterance.speaker_id:
            kept.append(utterance)
        else:
            problem = Rejection(
                "duplicate id",
                f"{earlier.manifest}, line {earlier.line}, gives {utterance.id} to "
                f"{earlier.speaker_id}, this line to {utterance.speaker_id}",
            )
            rejected.append(problem.row(utterance.id, utterance.file, None, utterance.manifest, utterance.line))
    return kept, rejected


def is_seconds(value: Any) -> bool:
    """Whether the value can be the length of a recording; NaN compares as false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST_SECONDS <= value <= MOST_SECONDS


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number from 1, without byte order mark or carriage return.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").strip()
                if content:
                    yield number, content
    except OSError as error:
        raise UserError(f"cannot read the manifest {path}: {why_unreadable(path, error)}") from error


def _head(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(SEEN)


def _row(line: bytes | dict, fields: dict[str, str]) -> dict[str, Any]:
    """Our fields of a line, by our names. Raise Rejection if it is no object or lacks a required field."""
    try:
        values = parse_json(line.decode()) if isinstance(line, bytes) else line
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but not text
    except UnicodeError as error:
        raise Rejection("not UTF-8 text", error.reason) from error
    except json.JSONDecodeError as error:
        raise Rejection("not JSON", f"{error.msg} (column {error.colno})") from error
    except TwinKeysError as error:
        raise Rejection("key given twice", str(error)) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise Rejection("not JSON", str(error)) from error
    if not isinstance(values, dict):
        raise Rejection("not a row", f"expected an object with {', '.join(REQUIRED)}, got {type(values).__name__}")
    row = {name: values[fields.get(name, name)] for name in FIELDS if fields.get(name, name) in values}
    if lacking := [name for name in REQUIRED if name not in row]:
        raise Rejection(
            "missing field",
            f"{', '.join(lacking)}; the row has {', '.join(values) or 'none'}; a field under "
            f"another name is given by --fields {lacking[0]}=<name>",
        )
    return row


def _utterance(row: dict[str, Any], manifest: str, line: int) -> Utterance:
    """Build the utterance of a row. Raise Rejection if a value has a wrong type."""
    row = _typed(row)
    raw = row["orthographic_text"]
    return Utterance(
        id=row["utterance_id"],
        file=row["audio_path"],
        text=clean_transcript(raw or "", markup=False),
        raw_text=raw,
        speaker_id=unicodedata.normalize("NFC", row["child_id"]),  # one child, however its name is typed
        group=(row["age_bucket"] or "").strip() or UNKNOWN,
        columns={
            "session_id": row["session_id"],
            "age_bucket": row["age_bucket"],
            PHONETIC: (row[PHONETIC] or "").strip() or None,
        },
        md5=(row["md5_hash"] or "").strip().lower() or None,
        duration=row["audio_duration_sec"],
        manifest=manifest,
        line=line,
    )


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """All fields of a row, None where a value is missing. Raise Rejection if a value has a wrong type."""
    row = dict.fromkeys(FIELDS) | {name: value for name, value in row.items() if value == value}  # pandas writes NaN
    row |= {name: found for name in IDS if (found := as_id(row[name])) is not None}
    if isinstance(row["age_bucket"], int | float) and not isinstance(row["age_bucket"], bool):
        row["age_bucket"] = as_label(row["age_bucket"])
    if empty := [name for name in REQUIRED if row[name] is None or not str(row[name]).strip()]:
        raise Rejection("missing field", f"{empty[0]} is empty")
    for name in TEXTS:
        if not isinstance(row[name], str if name in REQUIRED else str | None):
            raise Rejection("wrong type", f"{name} must be a string, got {json.dumps(row[name])[:80]}")
    seconds = row["audio_duration_sec"]
    if seconds is not None and not is_seconds(seconds):
        raise Rejection(
            "wrong type", f"audio_duration_sec must be a number of seconds, got {json.dumps(seconds)[:80]}"
        )
    return row
