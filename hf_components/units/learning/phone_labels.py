"""Phones of recordings with their times, from JSON lines or TextGrids, as labels of unit frames."""

import codecs
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from praatio.textgrid import PointTier, Textgrid, openTextgrid
from pympi.Elan import Eaf

from hf_components.runtime import UserError, files_below, printable, read_json_lines, same_path, why_unreadable
from hf_components.units.table import SECONDS_PER_UNIT

OTHER_FORMATS = {  # by words in the first bytes
    "ooBinaryFile": "binary TextGrid",
    "Praat chronological TextGrid": "chronological TextGrid",
    "ANNOTATION_DOCUMENT": "file of ELAN",
}
# Of each tier, in the long format and in the short one.
NUMBER_OF_ENTRIES = re.compile(
    r'(?:intervals|points): size = (\d+)|"(?:IntervalTier|TextTier)"\s+"(?:[^"]|"")*"\s+\S+\s+\S+\s+(\d+)'
)
LONGEST_PHONE = 10.0  # seconds; no half of the phones of a recording is longer
HEARD = 0.025  # seconds of audio that a frame covers, from the start of its unit


@dataclass
class Phones:
    """Phones of one recording in order, arrays (phones,): seconds in the recording, and names."""

    starts: np.ndarray
    ends: np.ndarray
    names: np.ndarray

    def of_frames(self, start: float, count: int) -> np.ndarray:
        """The phone at the centre of each of `count` frames, the first of which starts at `start`; "" for none."""
        middles = start + np.arange(count) * SECONDS_PER_UNIT + HEARD / 2
        if not len(self.names):
            return np.full(count, "")
        last = np.searchsorted(self.starts, middles, side="right") - 1
        inside = (last >= 0) & (middles < self.ends[last])
        return np.where(inside, self.names[last], "")


def read_phone_labels(path: str | Path, tier: str) -> dict[str, Phones]:
    """Read the phones of each recording; the keys are those of `recording_key`.

    Args:
        path: a file of JSON lines with `source_file`, `start`, `end` (seconds in the recording) and `phone`, or a
            folder of TextGrids with the relative paths of the recordings.
        tier: name of the tier that holds the phones in TextGrids.
    Raises:
        UserError: there are no labels, their format is wrong, or labels of a recording overlap.
    """
    path = Path(path)
    found = _from_textgrids(path, tier) if path.is_dir() else _from_json_lines(path)
    if not any(found.values()):
        raise UserError(f"{path} holds no phones; give JSON lines or a folder of TextGrids")
    return {name: in_order(phones, f"{path}, {name}") for name, phones in found.items()}


def recording_key(source_file: str) -> str:
    """The path without its suffix, which connects labels and recordings; the same for all spellings of a path."""
    path = PurePosixPath(same_path(source_file))
    return str(path.with_suffix("") if path.name else path)


def _from_json_lines(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for line, row in read_json_lines(path):
        try:
            name = row["source_file"]
            start = float(row["start"])
            end = float(row["end"])
            phone = phone_of(row)
            if not math.isfinite(start + end):
                raise ValueError("not a time")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line}: a phone needs source_file, start and end (in seconds) and phone, got {row}"
            ) from error
        found.setdefault(recording_key(str(name)), []).append((start, end, phone))
    return found


def phone_of(row: dict) -> str:
    """The label of a line; a number may be one. Raises KeyError or TypeError if there is none."""
    if isinstance(row["phone"], bool) or not isinstance(row["phone"], str | int):
        raise TypeError(f"no phone: {row['phone']!r}")
    return str(row["phone"])


def _from_textgrids(folder: Path, tier: str) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    files: dict[str, Path] = {}
    for file in sorted(file for file in files_below(folder) if file.suffix.lower() == ".textgrid"):
        name = recording_key(printable(file.relative_to(folder)))
        if name in files:
            raise UserError(f"{file} and {files[name]} are of one recording; remove one of the two")
        files[name] = file
        grid = open_textgrid(file)
        if tier not in grid.tierNames:
            tiers = ", ".join(grid.tierNames) or "none"
            raise UserError(f"{file} has no tier {tier!r}; it has {tiers}: give --phone_tier")
        if isinstance(grid.getTier(tier), PointTier):
            raise UserError(
                f"{file}: the tier {tier!r} is a point tier, and phones need intervals with a start and an end; give "
                "another tier by --phone_tier, or annotate an interval tier"
            )
        found[name] = [tuple(phone) for phone in grid.getTier(tier).entries if phone.label.strip()]
    return found


def open_textgrid(file: Path) -> Textgrid:
    """Read a TextGrid in one of Praat's two text formats, long or short."""
    remedy = "open it in Praat and choose Save > Save as text file"
    try:
        head = file.read_bytes()[:200]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {why_unreadable(file, error)}") from error
    for mark, form in OTHER_FORMATS.items():
        if any(mark.encode(encoding) in head for encoding in ("utf-8", "utf-16-le", "utf-16-be")):
            raise UserError(f"{file} is a {form}, which is not read; {remedy}")
    if not head.strip():
        raise UserError(f"{file} is empty; {remedy}, or remove it")
    try:
        grid = openTextgrid(str(file), includeEmptyIntervals=True, reportingMode="silence")
    except UnicodeError as error:
        raise UserError(
            f"{file} is neither UTF-8 nor UTF-16 text ({error}); set the text writing preferences of "
            f"Praat to UTF-8, then {remedy}"
        ) from error
    except Exception as error:  # praatio's parser fails by whatever its slices of a damaged file lead to
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be read as a TextGrid of intervals ({detail}); {remedy}") from error
    content = file.read_bytes()
    text = content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8")
    promised = [int(long or short) for long, short in NUMBER_OF_ENTRIES.findall(text)]
    if promised != (given := [len(each.entries) for each in grid.tiers]):  # praatio does not count
        raise UserError(
            f"{file} cannot be read as a TextGrid of intervals: its tiers promise {promised} entries and have "
            f"{given}; was the file cut short? Otherwise {remedy}"
        )
    return grid


def read_eaf(file: Path, choose: Callable[[list[str]], list[str]]) -> dict[str, list[tuple[float, float, str]]]:
    """The annotations of tiers of a document of ELAN: start and end in seconds of the recording, and text.

    Args:
        choose: function of the names of all tiers that returns the wanted ones.
    Raises:
        UserError: it cannot be read, an annotation has no times, its recordings begin at different times, or `choose`
            raises it.
    """
    try:
        document = Eaf(str(file))
        origin = _origin(document, file)
        tiers = {name: document.get_annotation_data_for_tier(name) for name in choose(list(document.get_tier_names()))}
    except UserError:
        raise
    except Exception as error:  # whatever pympi trips over, and it raises no more specific one itself
        detail = f"{type(error).__name__}: {error}"
        raise UserError(f"{file} cannot be read as an ELAN document ({detail}); save it again in ELAN") from error
    read: dict[str, list[tuple[float, float, str]]] = {}
    for name, annotations in tiers.items():
        if any(time is None for one in annotations for time in one[:2]):
            raise UserError(
                f"{file}: the tier {name!r} has annotations without times, as subdivisions of others have; align them "
                "in ELAN, or export the document as TextGrid, where they get times"
            )
        read[name] = [((origin + start) / 1000, (origin + end) / 1000, text) for start, end, text, *_ in annotations]
    return read


def _origin(document: Eaf, file: Path) -> int:
    """Where in the recording the times of a document begin, in milliseconds: not at 0 if it was synchronised."""
    media = document.media_descriptors
    recordings = [medium for medium in media if medium["MIME_TYPE"].startswith("audio/")] or media
    origins = {int(medium.get("TIME_ORIGIN") or 0) for medium in recordings}
    if len(origins) > 1:
        raise UserError(
            f"{file}: its recordings begin at {', '.join(map(str, sorted(origins)))} ms of its time (TIME_ORIGIN); "
            "keep the one that was annotated, in ELAN by Edit > Linked Files"
        )
    return origins.pop() if origins else 0


def in_order(phones: Iterable[tuple[float, float, str]], where: str) -> Phones:
    phones = sorted(phones)
    if not phones:  # nobody speaks, or nobody has labelled it
        return Phones(np.empty(0), np.empty(0), np.empty(0, dtype=str))
    starts, ends, names = map(np.array, zip(*phones, strict=True))
    if wrong := np.flatnonzero((ends <= starts) | np.append(ends[:-1] > starts[1:] + 1e-6, False)).tolist():
        raise UserError(
            f"{where}: phones must be longer than 0 s and must not overlap, but {names[wrong[0]]} is from "
            f"{starts[wrong[0]]:g} to {ends[wrong[0]]:g} s"
        )
    if (length := float(np.median(ends - starts))) > LONGEST_PHONE:
        raise UserError(
            f"{where}: times must be in seconds, and half of the phones are longer than {length:g}; divide them by "
            "1000 if they are milliseconds"
        )
    return Phones(starts, ends, names)
