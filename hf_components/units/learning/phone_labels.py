"""Phones of recordings with their times, from JSON lines or TextGrids, as labels of unit frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from praatio.textgrid import openTextgrid
from praatio.utilities.errors import PraatioException

from hf_components.runtime import UserError, read_json_lines
from hf_components.units.table import SECONDS_PER_UNIT

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
    if not found:
        raise UserError(f"{path} holds no phones; give JSON lines or a folder of TextGrids")
    return {name: _in_order(phones, f"{path}, {name}") for name, phones in found.items()}


def recording_key(source_file: str) -> str:
    """The path without its suffix, which connects labels and recordings."""
    return str(PurePosixPath(source_file).with_suffix(""))


def _from_json_lines(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for line, row in read_json_lines(path):
        try:
            name = row["source_file"]
            start = float(row["start"])
            end = float(row["end"])
            phone = row["phone"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line}: a phone needs source_file, start and end (in seconds) and phone, got {row}"
            ) from error
        found.setdefault(recording_key(str(name)), []).append((start, end, str(phone)))
    return found


def _from_textgrids(folder: Path, tier: str) -> dict[str, list[tuple[float, float, str]]]:
    found = {}
    for file in sorted(folder.rglob("*.TextGrid")):
        try:
            grid = openTextgrid(str(file), includeEmptyIntervals=False)
        except (PraatioException, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{file} cannot be read as a TextGrid: {error}") from error
        if tier not in grid.tierNames:
            raise UserError(f"{file} has no tier {tier!r}; it has {', '.join(grid.tierNames)}: give --phone_tier")
        found[recording_key(file.relative_to(folder).as_posix())] = [
            tuple(phone) for phone in grid.getTier(tier).entries
        ]
    return found


def _in_order(phones: Iterable[tuple[float, float, str]], where: str) -> Phones:
    starts, ends, names = map(np.array, zip(*sorted(phones), strict=True))
    if wrong := np.flatnonzero((ends <= starts) | np.append(ends[:-1] > starts[1:] + 1e-6, False)).tolist():
        raise UserError(
            f"{where}: phones must be longer than 0 s and must not overlap, but {names[wrong[0]]} is from "
            f"{starts[wrong[0]]:g} to {ends[wrong[0]]:g} s"
        )
    return Phones(starts, ends, names)
