"""Rows of a prepared corpus whose recording cannot be decoded: an error that says what to do, or left out.

What learns from a corpus may leave such rows out, if `--unreadable_rows reject` says so. What scores on a sample never
does: its figures would be those of other clips than the sample names. It stops before it loads a model.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import torch
from accelerate import PartialState

from hf_components.runtime import (
    Progress,
    UserError,
    atomic_write,
    check_stage,
    first_few,
    flag,
    gathered,
    of_main,
    printable,
    read_json_lines,
    share_of,
    text_field,
    write_json_lines,
)
from hf_components.speech.audio import AudioError
from hf_components.speech.corpus import waveforms

logger = logging.getLogger(__name__)

REJECTED = "rejected.jsonl"
Unreadable = Literal["stop", "reject"]


def unreadable_flag() -> Any:
    """The flag `unreadable_rows` of a recipe that reads a prepared corpus."""
    return flag(
        "stop at a recording that cannot be decoded; or reject: decode all recordings once before the work, and leave "
        f"such rows out, named in {REJECTED}",
        default="stop",
        choices=("stop", "reject"),
    )


@contextlib.contextmanager
def unreadable_explained() -> Iterator[None]:
    """Raise a UserError that names the row and the flag if a recording cannot be decoded within the block."""
    try:
        yield
    except AudioError as error:
        remedy = "prepare the corpus again, or leave such rows out with --unreadable_rows reject"
        raise UserError(f"{error}; {remedy}") from error


def leave_out_unreadable(
    splits: Mapping[str, datasets.Dataset], corpus: str, folder: Path, num_workers: int = 0
) -> dict[str, datasets.Dataset]:
    """The rows whose recordings can be decoded. The others are logged, and named in `folder/rejected.jsonl`.

    All rows are decoded once, by all processes together, since a file may be damaged at its end. This is not repeated
    if an interrupted run left `rejected.jsonl`. It is not needed for the unchanged output of prepare_corpus, which has
    decoded every row.

    Args:
        splits: rows of a prepared corpus, audio not decoded.
        corpus: folder or Hub id of the corpus.
        num_workers: processes that decode audio, per process; 0 decodes in this process.
    Raises:
        UserError: a split has no row left.
    """
    state = PartialState()
    file = folder / REJECTED
    if not of_main(file.exists):
        found = [] if _is_checked(corpus) else _unreadable(splits, num_workers)
        if state.is_main_process:
            with atomic_write(file) as temporary:
                write_json_lines(temporary, found)
        state.wait_for_everyone()
    left_out: dict[str, set[str]] = {name: set() for name in splits}
    for line, row in read_json_lines(file):
        left_out[text_field(row, "split", file, line)].add(text_field(row, "id", file, line))
    return {name: _without(rows, left_out[name], f"{corpus}, split {name}", file) for name, rows in splits.items()}


def require_readable(sample: datasets.Dataset, corpus: str, split: str) -> None:
    """Raise UserError unless every recording of a sample that is scored can be decoded.

    All of them are decoded once, by all processes together; not those of the unchanged output of prepare_corpus.
    """
    if broken := [] if _is_checked(corpus) else _unreadable({split: sample}, num_workers=0):
        names = first_few([f"{row['id']} ({row['reason']}: {row['detail']})" for row in broken], 3)
        raise UserError(
            f"{corpus}, split {split}: {len(broken)} of the {len(sample)} recordings to score cannot be decoded: "
            f"{names}. A score is that of every row of its sample: repair them, or take their rows out of the corpus"
        )


def _is_checked(corpus: str) -> bool:
    """Whether the corpus is the unchanged output of prepare_corpus."""
    return of_main(lambda: check_stage(corpus))


def _without(rows: datasets.Dataset, left_out: set[str], where: str, file: Path) -> datasets.Dataset:
    if not left_out:
        return rows
    ids = rows["id"][:]
    kept = [i for i, name in enumerate(ids) if printable(name) not in left_out]
    if not kept:
        raise UserError(f"{where}: none of the {len(ids)} recordings can be decoded; prepare the corpus again")
    text = "%s: %d of %d recordings cannot be decoded and are left out: %s; the reasons are in %s"
    logger.warning(text, where, len(ids) - len(kept), len(ids), first_few(sorted(left_out)), file.name)
    return rows.select(kept)


def _unreadable(splits: Mapping[str, datasets.Dataset], num_workers: int) -> list[dict]:
    """A line of `rejected.jsonl` for every row that cannot be decoded; every process returns all of them."""
    state = PartialState()
    places = [(name, index) for name, rows in splits.items() for index in range(len(rows))]
    loader = torch.utils.data.DataLoader(
        _Decoded(splits, share_of(places)),
        batch_size=None,
        num_workers=num_workers,
        generator=torch.Generator(),  # else the loader would change the random state of the training
    )
    progress = Progress(loader, desc="decoding every recording once", disable=not state.is_main_process)
    found = [row for row in progress if row is not None]
    order = {name: number for number, name in enumerate(splits)}
    return sorted(gathered(found), key=lambda row: (order[row["split"]], row["id"]))


class _Decoded(torch.utils.data.Dataset):
    """None for a row that can be decoded, else its line of `rejected.jsonl`."""

    def __init__(self, splits: Mapping[str, datasets.Dataset], places: Sequence[tuple[str, int]]):
        self.splits = splits
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict | None:
        split, index = self.places[number]
        row = self.splits[split][index]
        try:
            waveforms([row], is_ours=False)
        except AudioError as error:
            names = {"id": printable(row["id"]), "file": printable(row["audio"]["path"] or "")}
            return {**names, "reason": error.reason, "detail": error.detail, "split": split}
        return None
