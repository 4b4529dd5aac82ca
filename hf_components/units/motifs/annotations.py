"""Segments, units and motifs of recordings as annotations for Praat (TextGrid) and ELAN (.eaf)."""

import mimetypes
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from praatio.textgrid import IntervalTier, Textgrid
from pympi.Elan import Eaf

from hf_components.runtime import visible
from hf_components.units.motifs.bpe import Motifs, Occurrences
from hf_components.units.motifs.decisions import Decisions
from hf_components.units.table import SECONDS_PER_UNIT


class Interval(NamedTuple):
    """A label from `start` to `end`, seconds in the recording."""

    start: float
    end: float
    label: str


Tiers = dict[str, list[Interval]]  # by name, in display order; intervals of a tier do not overlap


def tiers_of_recordings(
    rows: pyarrow.Table, motifs: Motifs, found: Occurrences, decisions: Decisions | None = None
) -> dict[str, Tiers]:
    """The tiers segments, units and motifs of each recording.

    The label of a unit is its number, the label of a motif its name, or the one that it was given. Motifs of a single
    unit are left out, and so are those that were rejected.

    Args:
        rows: segments, see `hf_components.units.table.UnitTable`.
        found: their motifs.
    Returns:
        tiers by `source_file`.
    """
    decisions = decisions or Decisions()
    of_row = np.searchsorted(found.row, range(len(rows) + 1))  # first motif of each segment
    recordings: dict[str, Tiers] = {}
    for i in np.argsort(rows["start"].to_numpy(), kind="stable"):
        (row,) = rows.slice(i, 1).to_pylist()
        tiers = recordings.setdefault(row["source_file"], {"segments": [], "units": [], "motifs": []})
        # An interval ends at the same number as the next one starts: rounding must not make them overlap.
        times = [_time(row["start"] + at) for at in [*row["start_times"], len(row["units"]) * SECONDS_PER_UNIT]]
        tiers["segments"].append(
            Interval(_time(row["start"]), _time(row["start"] + row["duration"]), visible(row["id"]))
        )
        tiers["units"] += map(Interval, times, times[1:], map(str, row["deduplicated"]))
        for motif, unit in zip(
            found.motif[of_row[i] : of_row[i + 1]], found.unit[of_row[i] : of_row[i + 1]], strict=True
        ):
            label = decisions.label(motifs.name(motif), row["id"], times[unit])
            if len(motifs.units[motif]) > 1 and label:
                tiers["motifs"].append(Interval(times[unit], times[unit + len(motifs.units[motif])], visible(label)))
    for tiers in recordings.values():
        segments = tiers["segments"]
        ends = [min(a.end, b.start) for a, b in pairwise(segments)] + [segments[-1].end]
        tiers["segments"] = [
            Interval(segment.start, end, segment.label) for segment, end in zip(segments, ends, strict=True)
        ]
    return recordings


def tiers_of_hits(clips: Sequence[Mapping], label: str) -> dict[str, Tiers]:
    """The tier hits of each recording, numbered by their rank.

    Args:
        clips: what `Clips.cut` returned, the nearest first.
    Returns:
        tiers by `source_file`.
    """
    recordings: dict[str, Tiers] = {}
    for rank, clip in sorted(enumerate(clips, start=1), key=lambda ranked: ranked[1]["start"]):
        hits = recordings.setdefault(clip["source_file"], {"hits": []})["hits"]
        start = max(_time(clip["start"]), hits[-1].end if hits else 0.0)  # segments may overlap
        if start < (end := _time(clip["end"])):
            hits.append(Interval(start, end, visible(f"{label} {rank}")))
    return recordings


def _time(seconds: float) -> float:
    return round(float(seconds), 7)  # a sample of 16 kHz is 0.0000625 s


def write_textgrid(file: Path, tiers: Tiers, duration: float) -> None:
    """Write a Praat TextGrid in the long text format, UTF-8; `duration` is that of the recording in seconds."""
    grid = Textgrid(0, duration)
    for name, intervals in tiers.items():
        grid.addTier(IntervalTier(name, intervals, 0, duration))
    grid.save(str(file), format="long_textgrid", includeBlankSpaces=True, reportingMode="error")


def write_eaf(file: Path, tiers: Tiers, identity: Mapping, recording: Path | None = None) -> None:
    """Write an ELAN annotation document; its times are milliseconds.

    Args:
        identity: identity of the units, written as properties of the document.
        recording: audio file that the document links to.
    """
    document = Eaf(author="underheard")
    for name, intervals in tiers.items():
        document.add_tier(name)
        for start, end, label in intervals:
            document.add_annotation(name, round(1000 * start), round(1000 * end), label)
    document.remove_tier("default", clean=False)
    for key, value in identity.items():
        document.add_property(f"units:{key}", str(value))
    if recording is not None:
        kind = mimetypes.guess_type(recording.name)[0] or "audio/x-wav"
        place = visible(os.path.relpath(recording, file.parent))  # XML cannot hold an escape character
        document.add_linked_file(recording.resolve().as_uri(), place, kind)
    file.unlink(missing_ok=True)  # pympi would keep the file of a stopped run as .bak
    document.to_file(file)
