"""Divide long recordings into train and dev: by speaker if enough of them are known, else by recording."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hf_components.runtime import UserError
from hf_components.speech import (
    ALL,
    DEV,
    LARGE_DEVIATION,
    TRAIN,
    UNKNOWN,
    connected,
    describe_dev,
    is_known,
    known_speakers,
    report_split,
    split_recordings,
    split_speakers,
)

logger = logging.getLogger(__name__)

SplitBy = Literal["speaker", "recording"]


class Recording(NamedTuple):
    """A recording that is to be divided.

    Attributes:
        name: name of the recording.
        speaker: its speaker, or "unknown".
        size: weight in the shares of the splits, such as its number of segments.
    """

    name: str
    speaker: str
    size: int


class Division(NamedTuple):
    """Where recordings belong.

    Attributes:
        split_by: what is held out, "speaker" or "recording".
        sides: side of each recording; None if nothing can be held out.
        names: what is divided, for each recording: its speaker, as far as copies tell, or its own name.
        why: reason for dividing by recording although speakers are known; "" if there is none.
    """

    split_by: SplitBy
    sides: list[str] | None
    names: list[str]
    why: str = ""


def divide(
    recordings: Sequence[Recording],
    copies: Sequence[tuple[int, int]],
    val_ratio: float,
    seed: int,
    split_by: SplitBy | None,
) -> Division:
    """Divide recordings, so that about `val_ratio` of them is in dev. Copies are on one side.

    Args:
        recordings: the recordings.
        copies: pairs of recordings that are copies.
        val_ratio: share of dev, in (0, 1).
        seed: seed of the choice.
        split_by: what to hold out. None: speakers, if at least two are known and the share of dev comes close to
            `val_ratio`; else recordings.
    """
    are_known = len(known_speakers(recording.speaker for recording in recordings)) > 1
    if split_by == "speaker" and not are_known:
        return Division(split_by, None, [recording.speaker for recording in recordings])
    why = ""
    if split_by != "recording" and are_known:
        names, sides = _by_speaker(recordings, copies, val_ratio, seed)
        why = _objection(recordings, sides, val_ratio)
        if split_by == "speaker" or not why:
            return Division("speaker", sides, names, "" if sides else why)
    sides = _by_recording(recordings, copies, val_ratio, seed)
    return Division("recording", sides, [recording.name for recording in recordings], why)


def _objection(recordings: Sequence[Recording], sides: Sequence[str] | None, val_ratio: float) -> str:
    """Why a division by speaker is a poor one; "" if it is not."""
    if not sides:
        return "copies of recordings tie all speakers together"
    held_out = sum(recording.size for recording, side in zip(recordings, sides, strict=True) if side == DEV)
    share = held_out / sum(recording.size for recording in recordings)
    if abs(share - val_ratio) <= LARGE_DEVIATION:
        return ""
    return f"of the speakers, at best {share:.2f} can be held out for val_ratio {val_ratio:g}"


def require_known_speakers(speakers: Sequence[str], data_dir: str) -> None:
    """Raise UserError unless recordings can be divided by speaker."""
    if len(known_speakers(speakers)) < 2:
        raise UserError(
            f"split_by speaker holds out speakers, but fewer than two are known in {data_dir}; make a folder for each "
            "speaker there, or choose split_by recording"
        )


def record_of(
    recordings: Sequence[Recording], division: Division, val_ratio: float, seed: int, *, last_part: bool
) -> dict:
    """The content of `splits.json`. Logs what is held out, and why.

    Args:
        last_part: whether dev is the last part of each recording, because none could be spared.
    """
    by = division.split_by
    record = {"val_ratio": val_ratio, "split_seed": seed, "stratify_by": "none", "split_by": by}
    sides = division.sides or [TRAIN] * len(recordings)
    of_side = {side: [r for r, own in zip(recordings, sides, strict=True) if own == side] for side in (TRAIN, DEV)}
    if last_part:
        of_side = dict.fromkeys(of_side, list(recordings))
        strata = []
    else:
        names = [name for r, name in zip(recordings, division.names, strict=True) for _ in range(r.size)]
        where = dict(zip(division.names, sides, strict=True))
        strata = report_split(names, [ALL] * len(names), where, val_ratio, by)
    speakers = {side: [r.speaker for r in members] for side, members in of_side.items()}
    record |= {
        "strata": strata,
        "speakers": {side: sorted(known_speakers(names)) for side, names in speakers.items()},
        "recordings": {side: sorted(r.name for r in members) for side, members in of_side.items()},
    }
    if not of_side[DEV]:
        return record
    record["held_out"] = describe_dev(speakers[TRAIN], speakers[DEV], last_part)
    if last_part:
        record["last_part_of"] = record["recordings"][DEV]
    log = logger.warning if division.why else logger.info
    why = division.why and f" ({division.why}; --split_by speaker keeps speakers apart all the same)"
    log("dev is %s%s", record["held_out"], why)
    return record


def _by_speaker(
    recordings: Sequence[Recording], copies: Sequence[tuple[int, int]], val_ratio: float, seed: int
) -> tuple[list[str], list[str] | None]:
    """Speaker and side of each recording; no sides if copies tie all speakers together.

    A recording of an unknown speaker is in train, unless it is a copy of one in dev.
    """
    first: dict[str, int] = {}
    of_one = [(first.setdefault(r.speaker, i), i) for i, r in enumerate(recordings) if is_known(r.speaker)]
    labels = connected(len(recordings), [*copies, *of_one])
    known = {label: r.speaker for label, r in zip(labels, recordings, strict=True) if is_known(r.speaker)}
    names = [known.get(label, UNKNOWN) for label in labels]
    if len(known) < 2:
        return names, None
    rows = [name for name, r in zip(names, recordings, strict=True) for _ in range(r.size)]
    sides = split_speakers(rows, [ALL] * len(rows), val_ratio, seed)
    return names, [sides[name] for name in names]


def _by_recording(
    recordings: Sequence[Recording], copies: Sequence[tuple[int, int]], val_ratio: float, seed: int
) -> list[str] | None:
    """Sides by recording; None if no speaker can spare one."""
    labels = connected(len(recordings), copies)
    name_of = {label: r.name for label, r in zip(labels, recordings, strict=True)}
    rows = [(name_of[label], r.speaker) for label, r in zip(labels, recordings, strict=True) for _ in range(r.size)]
    sides = split_recordings([name for name, _ in rows], [speaker for _, speaker in rows], val_ratio, seed)
    return sides and [sides[name_of[label]] for label in labels]
