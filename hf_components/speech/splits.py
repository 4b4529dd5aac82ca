"""Divide a corpus into training and validation, seeded: by speaker and stratified, or by recording; with a report."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_components.runtime import UserError, as_id, parse_json
from hf_components.speech.sampling import rank, sample
from hf_components.speech.speakers import is_known

logger = logging.getLogger(__name__)

TRAIN, DEV = "train", "dev"
LONG = "_long"  # train_long: recordings too long for a model's input, of the speakers of train
ALL = "all"  # name of the row for all strata in a report
LARGE_DEVIATION = 0.1  # of a stratum's share in dev from the requested one; more causes a warning


def split_speakers(speakers: Sequence[str], strata: Sequence[str], val_ratio: float, seed: int) -> dict[str, str]:
    """Assign each speaker to `train` or `dev`, so that about `val_ratio` of the rows of every stratum are in dev.

    The speakers of a stratum are visited in an order that depends only on `seed` and their names. A speaker goes to
    dev if that brings the stratum closer to its share. If a stratum has two or more speakers, each side gets at least
    one. The order of the rows does not matter.

    Args:
        speakers: speaker of each row. Rows of unknown speakers are in train.
        strata: stratum of each row; a speaker with rows in several belongs to the one with most of them.
        val_ratio: share of the rows for dev, in [0, 1).
        seed: seed of the order.
    Returns:
        the side of each speaker, sorted by name. A stratum with a single speaker stays in train, with a warning.
    Raises:
        UserError: `val_ratio` is out of range.
    """
    check_val_ratio(val_ratio)
    rows = Counter(speakers)
    sides = dict.fromkeys(sorted(rows), TRAIN)
    if val_ratio == 0:
        return sides
    for stratum, members in sorted(_by_stratum(speakers, strata).items()):
        members = [name for name in members if is_known(name)]
        if not members:
            logger.warning("the stratum %s stays in train, not in dev: its speakers are unknown", stratum)
            continue
        if len(members) == 1:
            logger.warning("the stratum %s has one speaker, %s, who stays in train, not in dev", stratum, members[0])
            continue
        in_order = sorted(members, key=lambda name: rank(seed, name))
        for speaker in _choose({name: rows[name] for name in in_order}, val_ratio):
            sides[speaker] = DEV
    return sides


def split_recordings(
    recordings: Sequence[str], speakers: Sequence[str], val_ratio: float, seed: int
) -> dict[str, str] | None:
    """Assign each recording to `train` or `dev`, so that about `val_ratio` of the rows are in dev.

    Every speaker keeps a recording in train, and gives about the same share of recordings to dev. The order depends
    only on `seed` and the names. A recording goes to dev if that brings dev closer to its share; at least one does.

    Args:
        recordings: name of the recording of each row.
        speakers: speaker of each row; those that are unknown count as one.
        val_ratio: share of the rows for dev, in (0, 1).
        seed: seed of the order.
    Returns:
        the side of each recording, sorted by name; None if no speaker can spare a recording.
    """
    rows = Counter(recordings)
    voices: dict[str, set[str]] = defaultdict(set)
    for recording, speaker in zip(recordings, speakers, strict=True):
        voices[recording].add(speaker)
    left = Counter(speaker for heard in voices.values() for speaker in heard)
    in_order = sorted(rows, key=lambda name: rank(seed, name))
    place: Counter = Counter()
    turns = {}  # of a recording: the share of its speaker's recordings that come before it
    for name in in_order:
        speaker = min(voices[name])
        turns[name] = place[speaker] / left[speaker]
        place[speaker] += 1
    in_turn = sorted(in_order, key=turns.get)
    sides = dict.fromkeys(sorted(rows), TRAIN)
    target = val_ratio * len(recordings)
    taken = 0

    def hold_out(name: str) -> None:
        sides[name] = DEV
        left.subtract(voices[name])

    for name in in_turn:
        better = abs(taken + rows[name] - target) < abs(taken - target)
        if better and all(left[speaker] > 1 for speaker in voices[name]):
            hold_out(name)
            taken += rows[name]
    spare = [name for name in in_turn if all(left[speaker] > 1 for speaker in voices[name])]
    if not taken and not spare:
        return None
    if not taken:
        hold_out(min(spare, key=rows.get))
    return sides


def check_val_ratio(val_ratio: float) -> None:
    """Raise UserError unless `val_ratio` lies in [0, 1)."""
    if not 0 <= val_ratio < 1:
        raise UserError(f"val_ratio must lie in [0, 1), got {val_ratio}")


def report_split(
    speakers: Sequence[str],
    strata: Sequence[str],
    sides: dict[str, str],
    val_ratio: float | None = None,
    unit: str = "speaker",
) -> list[dict]:
    """Count rows and speakers on each side, per stratum and in total.

    Args:
        speakers, strata: speaker and stratum of each row; unknown speakers are not counted.
        sides: side of each speaker.
        val_ratio: requested share of dev; None for a split that was given.
        unit: what `speakers` and `sides` name: speaker or recording.
    Returns:
        rows of stratum, train_rows, dev_rows, train_speakers, dev_speakers (or train_recordings, dev_recordings),
        dev_share (of the rows), deviation (of dev_share from `val_ratio`, or None). A row counts in its own stratum,
        not in that of its speaker.
    """
    rows: dict[str, Counter] = defaultdict(Counter)  # by stratum and side
    people: dict[str, dict[str, set]] = defaultdict(lambda: defaultdict(set))
    for speaker, stratum in zip(speakers, strata, strict=True):
        for name in {stratum, ALL}:
            rows[name][sides[speaker]] += 1
            people[name][sides[speaker]] |= {speaker} if unit != "speaker" or is_known(speaker) else set()
    table = []
    for name in sorted(rows, key=lambda name: (name == ALL, name)):
        share = rows[name][DEV] / rows[name].total()
        deviation = None if val_ratio is None else round(share - val_ratio, 4)
        row = {
            "stratum": name,
            "train_rows": rows[name][TRAIN],
            "dev_rows": rows[name][DEV],
            f"train_{unit}s": len(people[name][TRAIN]),
            f"dev_{unit}s": len(people[name][DEV]),
            "dev_share": round(share, 4),
            "deviation": deviation,
        }
        table.append(row)
        if deviation is not None and row["dev_rows"] and abs(deviation) > LARGE_DEVIATION:
            logger.warning(
                "%.1f %% of the rows of the stratum %s are in dev instead of %.1f %%: its %d %ss cannot be divided "
                "better",
                100 * share,
                name,
                100 * val_ratio,
                row[f"train_{unit}s"] + row[f"dev_{unit}s"],
                unit,
            )
    return table


def hold_out(ids: Sequence[str], strata: Sequence[str], ratio: float, seed: int, *shared: Sequence[str]) -> set[int]:
    """Indices of about `ratio` of the recordings of every stratum. Recordings that belong together stay together.

    Args:
        ids: unique name of each recording.
        strata: stratum of each recording.
        seed: seed of the choice.
        shared: sequences with a value per recording; recordings with a common value belong together, directly or
            through other recordings.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(_together(len(ids), shared)):
        members[label].append(index)
    bundles = list(members.values())
    spread = [" ".join(sorted({strata[i] for i in bundle})) for bundle in bundles]
    chosen = sample([ids[bundle[0]] for bundle in bundles], spread, "stratified", 100 * ratio, seed=seed)
    return {i for number in chosen for i in bundles[number]}


def connected(count: int, pairs: Sequence[tuple[int, int]] | np.ndarray) -> list[int]:
    """A label for each of `count` things, which it shares with those it is paired with, directly or through others."""
    starts, ends = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (starts, ends)), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()


def read_split(path: str | Path) -> tuple[str, dict[str, str]]:
    """What a file divides, "speaker" or "recording", and the side of each.

    The file holds `{"speakers": {"train": [...], "dev": [...]}}`; or, if the same speakers are in both splits,
    `{"split_by": "recording", "recordings": {"train": [...], "dev": [...]}}`.

    Raises:
        UserError: the file has another form, or a speaker or recording is on both sides.
    """
    try:
        record = parse_json(Path(path).read_text(encoding="utf-8-sig"))
        unit = "recording" if record.get("split_by") == "recording" else "speaker"
        name_of = _speaker if unit == "speaker" else str
        named = [(name_of(name), side) for side in (TRAIN, DEV) for name in record[f"{unit}s"][side]]
        counts = Counter(name for name, _ in named)
    except OSError as error:
        raise UserError(f"cannot read the split {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path} is not a split like splits.json, {{"speakers": {{"train": [...], "dev": [...]}}}}: {error!r}'
        ) from error
    if twice := [name for name, count in counts.items() if count > 1]:
        remedy = ""
        if unit == "speaker":
            remedy = '; a split of the same speakers is {"split_by": "recording", "recordings": {"train": [...], ...}}'
        raise UserError(f"{path} names {twice[0]} more than once; a {unit} must be on one side only{remedy}")
    return unit, dict(named)


def _speaker(value: Any) -> str:
    """The name of a speaker as corpora have it, from however it is typed in JSON."""
    if (name := as_id(value)) is None:
        raise TypeError(f"{value!r} is no name")
    return unicodedata.normalize("NFC", name)


def _together(rows: int, shared: Sequence[Sequence[str]]) -> list[int]:
    """The label of each row's bundle: the connected components of the graph of rows and values."""
    values = [np.unique(column, return_inverse=True)[1] for column in shared]
    nodes = rows + sum(len(column) for column in values)
    ends = np.concatenate([column + rows * (number + 1) for number, column in enumerate(values)])
    starts = np.tile(np.arange(rows), len(values))
    return connected(nodes, np.column_stack([starts, ends]))[:rows]


def _by_stratum(speakers: Sequence[str], strata: Sequence[str]) -> dict[str, list[str]]:
    """The speakers of each stratum."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for speaker, stratum in zip(speakers, strata, strict=True):
        counts[speaker][stratum] += 1
    members = defaultdict(list)
    for speaker, found in counts.items():
        members[min(found, key=lambda stratum: (-found[stratum], stratum))].append(speaker)
    return members


def _choose(rows: dict[str, int], val_ratio: float) -> list[str]:
    """Speakers for dev: at least one, but not all. `rows` has the rows per speaker, in the order to try them."""
    target = val_ratio * sum(rows.values())
    chosen = []
    taken = 0
    for speaker, count in rows.items():
        if abs(taken + count - target) < abs(taken - target) and len(chosen) < len(rows) - 1:
            chosen.append(speaker)
            taken += count
    return chosen or [min(rows, key=rows.get)]
