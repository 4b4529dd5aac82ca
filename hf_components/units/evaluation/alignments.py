"""Phone alignments of recordings: TextGrid (Praat, MFA), CTM, ELAN, the table of DiscoPhon, JSON lines.

What cannot be read is rejected with its reason, and the rest is used. Times are seconds in the recording; in a CTM
whose first column names segments, seconds in the segment.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow
from praatio.textgrid import PointTier

from hf_components.runtime import UserError, files_below, printable, read_json_lines, same_path, why_unreadable
from hf_components.units.learning import Phones, in_order, open_textgrid, phone_of, read_eaf, recording_key

logger = logging.getLogger(__name__)

# What aligners write where nobody speaks, or where they do not know the word.
SILENCES = ("sil", "SIL", "sp", "spn", "pau", "<eps>", "#")
OF_SPEAKER = " - "  # MFA names a tier "speaker - phones" if a recording has several speakers
DISCOPHON = ("file", "onset", "offset", "phone")  # header of its table; https://github.com/bootphon/discophon
COMMENT = ";;"  # starts a comment in CTM
CTM_FIELDS = 5  # recording, channel, start, duration, phone; a confidence may follow


Reject = Callable[[str, str], None]  # function of what is rejected, and of the reason


def _reject(rejected: list[dict], file: str, name: str, reason: str) -> None:
    rejected.append({"id": printable(name), "file": file, "reason": reason})


class Labelled(NamedTuple):
    """A phone of a recording; times are in seconds."""

    recording: str
    start: float
    end: float
    phone: str


@dataclass
class Alignments:
    """Alignments by the path of the recording without its suffix, and the rows that could not be read.

    Args:
        rejected: rows of `rejected.jsonl`: `id`, `file`, `reason`.
    """

    phones: dict[str, Phones] = field(default_factory=dict)
    rejected: list[dict] = field(default_factory=list)

    def __post_init__(self):
        self._by_name: dict[str, list[str]] = {}
        for key in self.phones:
            self._by_name.setdefault(PurePosixPath(key).name, []).append(key)

    def of_frames(self, row: dict) -> np.ndarray | None:
        """The phone of each frame of a segment, "" for none; None if nobody has aligned it.

        Args:
            row: a row of `UnitTable`. Its recording is looked for by its path, then its own id, then by the name of
                the recording without folders, if only one alignment has it.
        """
        count = len(row["units"])
        recording = recording_key(row["source_file"])
        if recording in self.phones:
            return self.phones[recording].of_frames(row["start"], count)
        for name in (same_path(row["id"]), recording_key(row["id"])):
            if name in self.phones:
                return self.phones[name].of_frames(0.0, count)
        alike = self._by_name.get(PurePosixPath(recording).name, [])
        return self.phones[alike[0]].of_frames(row["start"], count) if len(alike) == 1 else None


def read_alignments(path: str | Path, tier: str, silences: Sequence[str] = SILENCES) -> Alignments:
    """Read a file of alignments, or all of them in a folder.

    Args:
        path: .TextGrid, .eaf, .ctm, .jsonl, or .txt with the columns file, onset, offset and phone; or a folder of
            them, at any depth. A TextGrid or .eaf has the relative path of its recording.
        tier: name of the tier that holds the phones.
        silences: labels that are no phones.
    Raises:
        UserError: there are no alignments, or none of them can be read.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    labels: dict[str, list[tuple[float, float, str]]] = {}
    source: dict[str, str] = {}
    rejected: list[dict] = []
    for file in _files_of(path):
        place = printable(file.relative_to(folder))
        reject = partial(_reject, rejected, place)
        for recording, labelled in _read_file(file, place, tier, reject).items():
            if recording in labels:
                reject(recording, f"{source[recording]} already holds the alignment of this recording")
                continue
            source[recording] = place
            labels[recording] = [
                (one.start, one.end, phone)
                for one in labelled
                if (phone := one.phone.strip()) and phone not in silences
            ]
    phones: dict[str, Phones] = {}
    for recording, labelled in labels.items():
        try:
            phones[recording] = in_order(labelled, f"{source[recording]}, {recording}")
        except UserError as error:
            _reject(rejected, source[recording], recording, str(error))
    if not any(len(of.names) for of in phones.values()):
        reason = f": {rejected[0]['reason']}" if rejected else f", or only {', '.join(silences)}"
        raise UserError(f"{path} holds no phones that can be read{reason}")
    return Alignments(phones, rejected)


def _files_of(path: Path) -> list[Path]:
    """The files of alignments at a path. Raises UserError if there are none."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}; --alignments takes phones with their times")
    files = sorted(file for file in (files_below(path) if path.is_dir() else [path]) if reader_of(file))
    if not files:
        raise UserError(f"{path} holds no alignments; give {', '.join(READERS)} files, or a folder of them")
    return files


def _read_file(file: Path, place: str, tier: str, reject: Reject) -> dict[str, list[Labelled]]:
    """The phones of a file by recording; none if it cannot be read."""
    found: dict[str, list[Labelled]] = {recording_key(place): []} if one_each(file) else {}
    try:
        for one in reader_of(file)(file, place, tier, reject):
            found.setdefault(one.recording, []).append(one)
    except UserError as error:
        reject("", str(error))
        return {}
    return found


def _from_textgrid(file: Path, place: str, tier: str, reject: Reject) -> Iterator[Labelled]:
    grid = open_textgrid(file)
    for name in _wanted(grid.tierNames, tier, file):
        found = grid.getTier(name)
        if isinstance(found, PointTier):
            raise UserError(f"{file}: the tier {name!r} is a point tier, and phones need a start and an end")
        for start, end, phone in found.entries:
            yield Labelled(recording_key(place), start, end, phone)


def _from_eaf(file: Path, place: str, tier: str, reject: Reject) -> Iterator[Labelled]:
    for annotations in read_eaf(file, partial(_wanted, tier=tier, file=file)).values():
        for start, end, phone in annotations:
            yield Labelled(recording_key(place), start, end, phone)


def _from_ctm(file: Path, place: str, tier: str, reject: Reject) -> Iterator[Labelled]:
    for number, line in _lines(file):
        words = line.split()
        if line.startswith(COMMENT):
            continue
        try:
            recording, _, start, duration, phone = words[:CTM_FIELDS]
            yield Labelled(_key(recording), _time(start), _time(start) + _time(duration), phone)
        except ValueError:
            reject(
                f"line {number}", f"a line of CTM holds recording, channel, start, duration and phone, got {line[:80]}"
            )


def _from_table(file: Path, place: str, tier: str, reject: Reject) -> Iterator[Labelled]:
    lines = _lines(file)
    _, header = next(lines)
    columns = [name.lstrip("#") for name in header.split()]
    at = [columns.index(name) for name in DISCOPHON]
    for number, line in lines:
        words = line.split()
        try:
            recording, start, end, phone = (words[i] for i in at)
            yield Labelled(_key(recording), _time(start), _time(end), phone)
        except (ValueError, IndexError):
            reject(f"line {number}", f"a line holds {', '.join(DISCOPHON)}, got {line[:80]}")


def _from_json_lines(file: Path, place: str, tier: str, reject: Reject) -> Iterator[Labelled]:
    for number, row in read_json_lines(file):
        try:
            yield Labelled(_key(str(row["source_file"])), _time(row["start"]), _time(row["end"]), phone_of(row))
        except (KeyError, TypeError, ValueError):
            reject(f"line {number}", f"a phone needs source_file, start, end (in seconds) and phone, got {row}")


def align_segments(rows: pyarrow.Table, alignments: Alignments, if_none: str) -> list[dict]:
    """The segments that have an alignment, with `phones` of their frames; the others are added to the rejected.

    Args:
        rows: segments, see `hf_components.units.table.UnitTable`.
        if_none: start of the message if no segment has a phone.
    """
    columns = {name: rows[name].to_pylist() for name in ("id", "source_file", "start", "speaker_id")}
    for name in ("units", "deduplicated"):
        columns[name] = rows[name].to_numpy(zero_copy_only=False)
    segments = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    found = []
    for row in segments:
        phones = alignments.of_frames(row)
        if phones is None:
            _reject(alignments.rejected, printable(row["source_file"]), row["id"], "no alignment")
        else:
            found.append({**row, "phones": phones})
    if not any((row["phones"] != "").any() for row in found):
        raise UserError(
            f"{if_none}: the phones are of {min(alignments.phones)}, ..., and the units of "
            f"{segments[0]['source_file'] if segments else 'nothing'}, ...; alignments and recordings must have the "
            "same names, except for the suffix, and times in seconds"
        )
    if alignments.rejected:
        logger.warning("%d alignments or segments are left out; rejected.jsonl says why", len(alignments.rejected))
    return found


Reader = Callable[[Path, str, str, Reject], Iterable[Labelled]]
READERS: dict[str, Reader] = {
    ".TextGrid": _from_textgrid,
    ".eaf": _from_eaf,
    ".ctm": _from_ctm,
    ".txt": _from_table,
    ".jsonl": _from_json_lines,
}


def reader_of(file: Path) -> Reader | None:
    """The reader of a file by its suffix; None if it holds no alignment. A .txt needs the header of DiscoPhon."""
    reader = next((found for suffix, found in READERS.items() if suffix.lower() == file.suffix.lower()), None)
    if reader is not _from_table:
        return reader
    try:
        with file.open(encoding="utf-8-sig") as opened:
            header = opened.readline().split()
    except (OSError, UnicodeError):
        return None
    return reader if set(DISCOPHON) <= {name.lstrip("#") for name in header} else None


def one_each(file: Path) -> bool:
    """Whether the file holds the alignment of one recording, the one of its name."""
    return reader_of(file) in (_from_textgrid, _from_eaf)


def _wanted(names: Sequence[str], tier: str, file: Path) -> list[str]:
    """The tiers of phones: the one of that name, or one for each speaker."""
    wanted = [name for name in names if name == tier or name.endswith(OF_SPEAKER + tier)]
    if not wanted:
        raise UserError(f"{file} has no tier {tier!r}; it has {', '.join(names) or 'none'}: give --phone_tier")
    return wanted


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {why_unreadable(file, error)}") from error
    except UnicodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    return ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _key(recording: str) -> str:
    """The name of a recording in a table: as it is, unless it has the suffix of a sound file."""
    name = same_path(recording)
    return recording_key(name) if PurePosixPath(name).suffix.lower() in SOUND else name


def _time(value: object) -> float:
    seconds = float(value)
    if not np.isfinite(seconds):
        raise ValueError("not a time")
    return seconds


SOUND = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aiff", ".aif", ".webm", ".mp4")
