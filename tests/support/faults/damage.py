"""A bit, a piece or the end of an artefact is lost, and the step that reads it runs.

The file keeps its time of change, as after the decay of a disk. PNG is left out, since nothing reads it. In a quarter
of the trials the artefact is one that a killed run has left, and the step that reads it is the run that goes on.
"""

import contextlib
import dataclasses
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults import verdicts
from faults.children import kill_self, run
from faults.kills import after_fault
from faults.moments import Tally, Watch
from faults.verdicts import OTHER, REFUSED, SAME, Verdict
from faults.whole_runs import LONG, WholeRuns, belongs, draw
from hf_components.runtime.completion import COMPLETION

UNREAD = (".png",)
WORK = "_work/"  # in the path of what an unfinished run reads: nothing does once its result is there
# A kept result may hold them as somebody has edited them, and who reads an edited one takes it as it is.
FOR_PEOPLE = (".md", ".html", ".log", ".TextGrid", ".eaf")
WAYS = ("bit", "bit", "bit", "cut", "zeros")
OF_UNFINISHED = 0.25  # share of trials
PIECE = 512  # bytes that become zeros: a sector


def trial(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Damage an artefact drawn at random, of a kind drawn at random, and run a recipe that reads it."""
    maker = draw(chance, only)
    if chance.random() < OF_UNFINISHED:
        return _of_unfinished(runs, maker, number, chance, place)
    readers = [name for name in runs.readers[maker] if name not in LONG and (not only or name in only)]
    reader = chance.choice([maker, *readers])
    artefacts = _artefacts(runs, maker)
    if read := [file for file in artefacts if file.suffix not in FOR_PEOPLE]:
        artefacts = artefacts if reader == maker else read
    else:
        reader = maker
    kind = chance.choice(sorted({file.suffix for file in artefacts}))
    file = chance.choice([file for file in artefacts if file.suffix == kind])
    whole = runs[reader]
    out = place / "run"
    out.mkdir(parents=True)
    damaged = runs.results / file
    if reader == maker:  # it finds its own result, and is to keep it
        for name in runs[maker].names:
            _copy(runs.results / name, out / name)
        damaged = out / file
    with damage(damaged, chance) as how:
        ended = run(runs.work(reader, out), place / "log.txt")
        fault = f"{file}: {how}; read by {reader}"
        if ended.how == "refused":
            named = verdicts.is_named(ended.text, [file.name, str(damaged.parent), file.parts[0]])
            return Verdict("bit_flips", number, _artefact(maker, file), fault, REFUSED if named else OTHER, ended.text)
        if ended.how != "done":
            text = f"{ended.how}: {ended.text[-2000:]}"
            return Verdict("bit_flips", number, _artefact(maker, file), fault, OTHER, text)
        if reader == maker and file.suffix in FOR_PEOPLE:
            shutil.copy2(runs.results / file, damaged)  # it may be as it is
        wrong = verdicts.of_results(out, runs.results, whole.names, ended.result, whole.returned)
    return Verdict(
        "bit_flips", number, _artefact(maker, file), fault, OTHER if wrong else SAME, " | ".join(wrong)[:2000]
    )


def _of_unfinished(runs: WholeRuns, maker: str, number: int, chance: random.Random, place: Path) -> Verdict:
    """Kill a recipe, damage what it has left, and run it again."""
    out = place / "run"
    out.mkdir(parents=True)
    moment = chance.randint(1, runs[maker].ended.events)
    tally = Tally()
    killed = run(runs.work(maker, out, Watch(out, tally, moment, kill_self)), place / "log.txt", tally)
    killed.safe = 0  # work in a damaged file may be lost
    files = sorted(
        file
        for file in out.rglob("*")
        if file.is_file() and file.stat().st_size and _is_continued(file) and not _is_done_with(file, out)
    )
    if not files:
        fault = f"killed at event {moment}, before any file"
        return after_fault(runs, "bit_flips", number, maker, fault, killed, place)
    kind = chance.choice(sorted({file.suffix for file in files}))
    file = chance.choice([file for file in files if file.suffix == kind])
    _, how = _damaged(file, chance)
    fault = f"{file.relative_to(out)} of a run killed at event {moment}: {how}"
    what = f"unfinished {maker}/*{file.suffix or file.name}"
    verdict = after_fault(runs, "bit_flips", number, maker, fault, killed, place)
    return dataclasses.replace(verdict, what=what)


@contextlib.contextmanager
def damage(file: Path, chance: random.Random) -> Iterator[str]:
    """Damage a file within the block, and yield what was done."""
    stat = file.stat()
    content, how = _damaged(file, chance)
    try:
        yield how
    finally:
        if file.exists():
            file.write_bytes(content)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _damaged(file: Path, chance: random.Random) -> tuple[bytes, str]:
    """Damage a file; its earlier content, and what was done."""
    content = file.read_bytes()
    stat = file.stat()
    way = chance.choice(WAYS)
    damaged = bytearray(content)
    place = chance.randrange(len(content))
    if way == "bit":
        bit = chance.randrange(8)
        damaged[place] ^= 1 << bit
        how = f"bit {bit} of byte {place} of {len(content)} flipped"
    elif way == "cut":
        del damaged[place:]
        how = f"cut to {place} of {len(content)} bytes"
    else:
        end = min(len(content), place + PIECE)
        damaged[place:end] = bytes(end - place)
        how = f"bytes {place} to {end} of {len(content)} zeroed"
    file.write_bytes(damaged)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return content, how


def _is_read(file: Path) -> bool:
    return file.suffix not in UNREAD and WORK not in str(file)


def _is_continued(file: Path) -> bool:
    return file.suffix not in UNREAD + FOR_PEOPLE


def _is_done_with(file: Path, out: Path) -> bool:
    """Whether a file is work of a step whose result is there, maybe but for its renaming."""
    steps = [
        folder.with_name(folder.name.removesuffix(WORK[:-1]))
        for folder in file.relative_to(out).parents
        if folder.name.endswith(WORK[:-1])
    ]
    places = [place for step in steps for place in (step, step.with_name(f".{step.name}.partial"))]
    return any((out / place / COMPLETION).exists() for place in places)


def _artefacts(runs: WholeRuns, maker: str) -> list[Path]:
    """Files of a result that are not empty, by their path among all results."""
    files = (path for name in runs[maker].names for path in [runs.results / name, *(runs.results / name).rglob("*")])
    return sorted(
        file.relative_to(runs.results) for file in files if file.is_file() and file.stat().st_size and _is_read(file)
    )


def _artefact(maker: str, file: Path) -> str:
    assert belongs(file.parts[0], maker)
    return f"{maker}/*{file.suffix or file.name}"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)
