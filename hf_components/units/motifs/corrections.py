"""Tiers of segments, units and motifs, corrected in Praat or ELAN, read back as units of the corpus."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from praatio.textgrid import PointTier

from hf_components.runtime import UserError, visible
from hf_components.speech import SAMPLING_RATE
from hf_components.units.learning import open_textgrid, read_eaf
from hf_components.units.motifs.annotations import Interval, Tiers
from hf_components.units.table import HOP, SECONDS_PER_UNIT

TIERS = ("segments", "units", "motifs")
HALF = SECONDS_PER_UNIT / 2
MOVED = 0.002  # seconds by which a document may round the start of a segment; ELAN keeps milliseconds


def read_tiers(file: Path, names: Sequence[str] = TIERS) -> Tiers:
    """Tiers of a TextGrid or an .eaf, by default those of `export_annotations`, without intervals that have no label.

    Raises:
        UserError: the file cannot be read, or lacks a tier.
    """
    found = _of_eaf(file, names) if file.suffix.lower() == ".eaf" else _of_textgrid(file, names)
    if missing := [name for name in names if name not in found]:
        if missing[0] in TIERS:
            raise UserError(
                f"{file} has no tier {missing[0]!r}, which export_annotations writes; export the units again"
            )
        raise UserError(f"{file} has no tier {missing[0]!r}; give the name of one that it has")
    return {name: sorted(found[name]) for name in names}


def _of_textgrid(file: Path, names: Sequence[str]) -> Tiers:
    grid = open_textgrid(file)
    tiers = {name: grid.getTier(name) for name in names if name in grid.tierNames}
    if points := [name for name, tier in tiers.items() if isinstance(tier, PointTier)]:
        raise UserError(f"{file}: the tier {points[0]!r} is a point tier, and needs intervals with a start and an end")
    return {
        name: [
            Interval(float(start), float(end), label.strip()) for start, end, label in tier.entries if label.strip()
        ]
        for name, tier in tiers.items()
    }


def _of_eaf(file: Path, names: Sequence[str]) -> Tiers:
    tiers = read_eaf(file, partial(_among, names))
    return {
        name: [Interval(start, end, text.strip()) for start, end, text in found if text.strip()]
        for name, found in tiers.items()
    }


def _among(names: Sequence[str], there: Sequence[str]) -> list[str]:
    return [name for name in names if name in there]


def corrected(segment: Mapping, tiers: Tiers, num_units: int, file: Path) -> dict:
    """A row of the units with the units of its tier.

    Args:
        segment: row of a `hf_components.units.table.UnitTable`.
        tiers: those of its recording.
        file: where they are from, for messages.
    Raises:
        UserError: the segment is not in its tier, or was moved; or its units do not fill it without gaps, or are no
            numbers of units.
    """
    start = segment["start"]
    named = [one for one in tiers["segments"] if one.label == visible(segment["id"]).strip()]
    if len(named) != 1 or abs(named[0].start - start) > MOVED:
        raise UserError(
            f"{file}: the segment {segment['id']} must start at {start:.3f} s as before, and be there once; keep the "
            "tier of segments, and correct units and motifs. segment_audio --boundaries cuts other segments"
        )
    end = start + len(segment["units"]) * SECONDS_PER_UNIT
    inside = [one for one in tiers["units"] if one.end > start + HALF and one.start < end - HALF]
    edges = [round((edge - start) / SECONDS_PER_UNIT) for one in inside for edge in (one.start, one.end)]
    if not inside or edges[0] != 0 or edges[-1] != len(segment["units"]) or edges[1:-1:2] != edges[2:-1:2]:
        raise UserError(
            f"{file}: the units of {segment['id']} must fill it from {start:.2f} to {end:.2f} s without gaps or "
            "overlaps; move their boundaries together"
        )
    durations = np.diff([edges[0], *edges[1::2]])
    units = [_number(one, num_units, file) for one in inside]
    frames = np.repeat(units, durations)
    # Neighbours with the same unit, one of which was corrected, become one.
    first = np.flatnonzero(np.append(True, frames[1:] != frames[:-1]))
    return {
        **segment,
        "units": frames.tolist(),
        "deduplicated": frames[first].tolist(),
        "durations": np.diff(np.append(first, len(frames))).tolist(),
        "start_times": (first * HOP / SAMPLING_RATE).tolist(),  # to the last bit as in `timed`
    }


def _number(unit: Interval, num_units: int, file: Path) -> int:
    if not (unit.label.isdecimal() and int(unit.label) < num_units):
        raise UserError(
            f"{file}: a unit must be a number from 0 to {num_units - 1}, got {unit.label!r} at {unit.start:.2f} s"
        )
    return int(unit.label)
