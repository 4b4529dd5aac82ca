"""Divide a corpus into training and validation, stratified and seeded: by speaker, with a report, or by recording."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_components.runtime import UserError
from hf_components.speech.sampling import rank, sample

logger = logging.getLogger(__name__)

TRAIN, DEV = "train", "dev"
ALL = "all"  # name of the row for all strata in a report
LARGE_DEVIATION = 0.1  # of a stratum's share in dev from the requested one; more causes a warning


def split_speakers(speakers: Sequence[str], strata: Sequence[str], val_ratio: float, seed: int) -> dict[str, str]:
    """Assign each speaker to `train` or `dev`, so that about `val_ratio` of the rows of every stratum are in dev.

    The speakers of a stratum are visited in an order that depends only on `seed` and their names. A speaker goes to
    dev if that brings the stratum closer to its share. If a stratum has two or more speakers, each side gets at least
    one. The order of the rows does not matter.

    Args:
        speakers: speaker of each row.
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
        if len(members) == 1:
            logger.warning("the stratum %s has one speaker, %s, who stays in train, not in dev", stratum, members[0])
            continue
        in_order = sorted(members, key=lambda name: rank(seed, name))
        for speaker in _choose({name: rows[name] for name in in_order}, val_ratio):
            sides[speaker] = DEV
    return sides


def check_val_ratio(val_ratio: float) -> None:
    """Raise UserError unless `val_ratio` lies in [0, 1)."""
    if not 0 <= val_ratio < 1:
        raise UserError(f"val_ratio must lie in [0, 1), got {val_ratio}")


def report_split(
    speakers: Sequence[str], strata: Sequence[str], sides: dict[str, str], val_ratio: float | None = None
) -> list[dict]:
    """Count rows and speakers on each side, per stratum and in total.

    Args:
        speakers, strata: speaker and stratum of each row.
        sides: side of each speaker.
        val_ratio: requested share of dev; None for a split that was given.
    Returns:
        rows of stratum, train_rows, dev_rows, train_speakers, dev_speakers, dev_share (of the rows), deviation (of
        dev_share from `val_ratio`, or None). A row counts in its own stratum, not in that of its speaker.
    """
    rows: dict[str, Counter] = defaultdict(Counter)  # by stratum and side
    people: dict[str, dict[str, set]] = defaultdict(lambda: defaultdict(set))
    for speaker, stratum in zip(speakers, strata, strict=True):
        for name in {stratum, ALL}:
            rows[name][sides[speaker]] += 1
            people[name][sides[speaker]].add(speaker)
    table = []
    for name in sorted(rows, key=lambda name: (name == ALL, name)):
        share = rows[name][DEV] / rows[name].total()
        deviation = None if val_ratio is None else round(share - val_ratio, 4)
        row = {
            "stratum": name,
            "train_rows": rows[name][TRAIN],
            "dev_rows": rows[name][DEV],
            "train_speakers": len(people[name][TRAIN]),
            "dev_speakers": len(people[name][DEV]),
            "dev_share": round(share, 4),
            "deviation": deviation,
        }
        table.append(row)
        if deviation is not None and row["dev_speakers"] and abs(deviation) > LARGE_DEVIATION:
            logger.warning(
                "%.1f %% of the rows of the stratum %s are in dev instead of %.1f %%: its %d speakers cannot be "
                "divided better",
                100 * share,
                name,
                100 * val_ratio,
                row["train_speakers"] + row["dev_speakers"],
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


def read_split(path: str | Path) -> dict[str, str]:
    """The side of each speaker in a file with `{"speakers": {"train": [...], "dev": [...]}}`.

    Raises:
        UserError: the file has another form, or a speaker is on both sides.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        named = [(name, side) for side in (TRAIN, DEV) for name in record["speakers"][side]]
        counts = Counter(name for name, _ in named)
    except OSError as error:
        raise UserError(f"cannot read the split {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f'{path} is not a split like splits.json, {{"speakers": {{"train": [...], "dev": [...]}}}}: {error!r}'
        ) from error
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"{path} names {twice[0]} more than once; a speaker must be on one side only")
    return dict(named)


def _together(rows: int, shared: Sequence[Sequence[str]]) -> list[int]:
    """The label of each row's bundle: the connected components of the graph of rows and values."""
    values = [np.unique(column, return_inverse=True)[1] for column in shared]
    nodes = rows + sum(len(column) for column in values)
    ends = np.concatenate([column + rows * (number + 1) for number, column in enumerate(values)])
    starts = np.tile(np.arange(rows), len(values))
    _, labels = connected_components(
        coo_array((np.ones(len(ends)), (starts, ends)), shape=(nodes, nodes)), directed=False
    )
    return labels[:rows].tolist()


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
