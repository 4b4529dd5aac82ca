"""What every row of a prepared corpus must have."""

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from hf_components.runtime import UserError, visible
from hf_components.speech.audio import AudioError, read_duration

REQUIRED = ("id", "audio", "text", "speaker_id", "group", "duration")
UNUSUAL = 100.0  # seconds; few corpora have half of their recordings longer


def check_contract(rows: Dataset, where: str) -> None:
    """Raise UserError if a column is missing or of another type, or a row lacks what every recipe needs."""
    if missing := [column for column in REQUIRED if column not in rows.column_names]:
        raise UserError(
            f"{where} lacks the columns {', '.join(missing)}; a prepared corpus has {', '.join(REQUIRED)}; "
            "recipes/prepare_corpus.py writes one"
        )
    for column in ("id", "text", "speaker_id", "group", "duration"):
        kind = rows.data.column(column).type
        fits = _is_number(kind) if column == "duration" else _is_text(kind)
        if not (fits or (column in ("text", "speaker_id", "group") and pyarrow.types.is_null(kind))):
            wanted = "seconds" if column == "duration" else "text"
            raise UserError(
                f"{where} must hold {wanted} in the column {column}, got {kind}; prepare the corpus again, or "
                "cast the column, with cast_column of datasets"
            )
    if not len(rows):
        return
    for column in ("id", "text", "group", "duration"):
        _refuse(rows, rows.data.column(column).is_null(), where, f"has no {column}")
    seconds = rows.data.column("duration").cast(pyarrow.float64())
    wrong = pyarrow.compute.invert(
        pyarrow.compute.and_(pyarrow.compute.is_finite(seconds), pyarrow.compute.greater(seconds, 0.0))
    )
    _refuse(rows, wrong, where, "must have a duration above 0 s")
    _refuse_twins(rows, where)
    audio = rows.data.column("audio")
    if not (pyarrow.types.is_struct(audio.type) and "bytes" in [field.name for field in audio.type]):
        raise UserError(
            f"{where} must hold recordings in the column audio, got {audio.type}; prepare the corpus again"
        )
    inside = pyarrow.chunked_array([pyarrow.compute.struct_field(chunk, "bytes") for chunk in audio.chunks])
    _refuse(rows, inside.is_null(), where, "must hold its recording, and not only a path")


def _refuse_twins(rows: Dataset, where: str) -> None:
    """Raise UserError if two rows have the same id."""
    counts = pyarrow.compute.value_counts(rows.data.column("id").combine_chunks())
    twice = counts.filter(pyarrow.compute.greater(counts.field("counts"), 1))
    if len(twice):
        raise UserError(f"{where} has the id {visible(twice[0]['values'])} twice; every id must appear once")


def _refuse(rows: Dataset, wrong: pyarrow.ChunkedArray, where: str, rule: str) -> None:
    """Raise UserError if a row of the table is wrong."""
    if count := pyarrow.compute.sum(wrong).as_py():
        first = pyarrow.compute.index(wrong, True).as_py()
        name = visible(rows.data.column("id")[first])
        more = f" (and {count - 1} more rows)" if count > 1 else ""
        raise UserError(f"{where} row {name}{more}: every row {rule}; prepare the corpus again, or leave the row out")


def check_seconds(rows: Dataset, where: str) -> None:
    """Raise UserError if the column `duration` is in milliseconds; only long durations are compared with the audio."""
    if not len(rows) or np.median(rows["duration"][:]) < UNUSUAL:
        return
    (given,) = rows["duration"][:1]
    (audio,) = rows["audio"][:1]
    try:
        seconds = read_duration(audio["bytes"] or audio["path"], name=where)
    except AudioError:  # told with its id when it is used
        return
    if abs(given / 1000 - seconds) <= max(0.1, 0.05 * seconds):
        raise UserError(
            f"{where}: duration must be in seconds, but the first row gives {given:g} and its recording lasts "
            f"{seconds:.2f} s; divide the column by 1000"
        )


def kind_of(kind: pyarrow.DataType) -> str:
    """A type in words; types that `datasets` reads in the same way have the same."""
    return "text" if _is_text(kind) else "number" if _is_number(kind) else str(kind)


def _is_text(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def _is_number(kind: pyarrow.DataType) -> bool:
    return pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind)
