"""From a moment of a recipe on, its folder cannot be written; then the same command again, on a disk that can.

The disk is full (ENOSPC), read-only (EROFS) or of somebody else (EACCES), from an event drawn at random to the end of
the run: whatever Python then opens to write, makes, renames, deletes or syncs there fails. Where a file system can be
mounted, a quarter of the runs have a small one that is really full, which stops libraries in Rust and C++ as well. The
run must refuse with a message that names a place in the folder and what to do, or get by. The next one must give the
same bits.
"""

import contextlib
import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from faults import verdicts
from faults.children import Ended, run
from faults.kills import after_fault
from faults.moments import Tally, Watch
from faults.verdicts import OTHER, Verdict
from faults.whole_runs import WholeRuns, draw

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
FAILS = {  # which events fail by which error
    errno.ENOSPC: ("open", "os.mkdir", "fsync"),
    errno.EROFS: (*CHANGES, "fsync"),
    errno.EACCES: CHANGES,
}
REAL = 0.25  # share of trials with a small file system
ROOM = "4g"  # size of it for the second run


class Unwritable(Watch):
    """A folder that cannot be written from an event on."""

    def __init__(self, folder: Path, tally: Tally, first: int, error: int):
        super().__init__(folder, tally)
        self.first = first
        self.error = error

    def happens(self, kind: str, path: str) -> None:
        super().happens(kind, path)
        if path.startswith(self.folder) and self.events >= self.first and kind in FAILS[self.error]:
            raise OSError(self.error, os.strerror(self.error), path)


def trial(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Run a recipe on a disk that fails at a moment, both drawn at random, and again on one that does not."""
    name = draw(chance, only)
    whole = runs[name]
    out = place / "run"
    out.mkdir(parents=True)
    moment = chance.randint(1, whole.ended.events)
    error = chance.choice(list(FAILS))
    share = chance.random()
    is_real = chance.random() < REAL
    with small_disk(out, round(share * size_of(runs, name))) if is_real else contextlib.nullcontext(False) as mounted:
        tally = Tally()
        if mounted:
            fault = f"a disk of {share:.0%} of the result"
            watch = Watch(out, tally)
        else:
            fault = f"{errno.errorcode[error]} from event {moment} of {whole.ended.events} on"
            watch = Unwritable(out, tally, moment, error)
        ended = run(runs.work(name, out, watch), place / "log.txt", tally)
        if problem := not_refused(ended, out):
            return Verdict("full_disks", number, name, fault, OTHER, problem)
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", out], check=True)
        return after_fault(runs, "full_disks", number, name, f"{fault}: {ended.text}", ended, place)


def not_refused(ended: Ended, out: Path) -> str | None:
    """What is wrong with the end of a run on such a disk, if it neither got by nor was refused by name."""
    if ended.how == "done" or (ended.how == "refused" and verdicts.is_named(ended.text, [str(out)])):
        return None
    return f"{ended.how}: {ended.text[-2000:]}"


def size_of(runs: WholeRuns, name: str) -> int:
    """Bytes of a recipe's whole result."""
    places = (runs.results / part for part in runs[name].names)
    files = (file for place in places for file in (place, *place.rglob("*")) if file.is_file())
    return sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a file system of that size in bytes on a folder, and yield whether that was possible."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)
