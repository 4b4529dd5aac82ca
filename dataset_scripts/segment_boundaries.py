"""Segments that somebody marked in Praat or ELAN: where each recording is cut, instead of at its pauses."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from hf_components.runtime import UserError, files_below, first_few, printable, same_path
from hf_components.speech import SAMPLING_RATE
from hf_components.units.motifs import read_tiers

SUFFIXES = (".textgrid", ".eaf")  # in lower case
ROUNDING = 0.05  # seconds by which an annotation may end after its recording
SHORTEST = 0.025  # seconds; of less no unit is left

Boundaries = dict[str, list[tuple[int, int]]]  # first sample and the one after the last of each segment, by recording


def annotation_files(folder: str | Path, names: Mapping[str, str]) -> dict[str, Path]:
    """The annotation of each recording that has one.

    Args:
        folder: folder of TextGrid and ELAN files.
        names: name of each recording without suffix, as `export_annotations` gives it to its files.
    Raises:
        UserError: no recording has one, or a recording has one of each kind.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(files_below(folder)):
        if file.suffix.lower() in SUFFIXES:
            by_name[same_path(printable(file.relative_to(folder).with_suffix("")))].append(file)
    found = {}
    for recording, name in names.items():
        files = by_name.get(same_path(name), [])
        if len(files) > 1:
            raise UserError(f"{files[0]} and {files[1]} are of the same recording; keep the one that was corrected")
        if files:
            found[recording] = files[0]
    if not found:
        wanted = first_few([f"{name}.TextGrid" for name in names.values()])
        raise UserError(f"{folder} has no annotation of these recordings; it needs files such as {wanted}")
    return found


def read_boundaries(file: Path, tier: str, duration: float, longest: float) -> list[tuple[int, int]]:
    """The intervals of a tier, in samples at 16 kHz; their labels do not matter, but one without a label is a pause.

    Args:
        duration: seconds of the recording.
        longest: most seconds of a segment.
    Raises:
        UserError: there are no intervals, or one overlaps the next, is too short or too long, or ends after the
            recording.
    """
    intervals = read_tiers(file, [tier])[tier]
    if not intervals:
        raise UserError(f"{file}: the tier {tier!r} has no interval with a label; label each segment")
    for one in intervals:
        where = f"{file}: the interval from {one.start:.3f} to {one.end:.3f} s"
        if one.end > duration + ROUNDING:
            raise UserError(f"{where} ends after its recording, which has {duration:.3f} s; is it of another one?")
        if not SHORTEST <= one.end - one.start <= longest:
            raise UserError(f"{where} must have {SHORTEST} to {longest:g} s; move its boundary, or change max_segment")
    for one, following in pairwise(intervals):
        if following.start < one.end:
            raise UserError(f"{file}: the intervals at {one.start:.3f} and {following.start:.3f} s overlap")
    return [(round(one.start * SAMPLING_RATE), round(one.end * SAMPLING_RATE)) for one in intervals]
