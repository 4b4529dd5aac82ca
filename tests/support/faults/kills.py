"""SIGKILL at a moment of a recipe, then the same command again: the results must be those of a run left alone."""

import os
import random
from pathlib import Path

from faults import verdicts
from faults.children import Ended, kill_self, run
from faults.moments import Tally, Watch
from faults.verdicts import OTHER, REFUSED, SAME, Verdict
from faults.whole_runs import WholeRuns, draw

DELAYS = (0.0, 0.0, 0.001, 0.005, 0.02)  # seconds after an event; Rust and C++ write their files in between


def trial(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Kill a recipe drawn at random at a moment drawn at random, and run it again."""
    name = draw(chance, only)
    whole = runs[name]
    moment = chance.randint(1, whole.ended.events)
    delay = chance.choice(DELAYS)
    fault = f"SIGKILL {delay:g} s after event {moment} of {whole.ended.events}"
    out = place / "run"
    out.mkdir(parents=True)
    killed = _killed(runs, name, out, place / "log.txt", moment, delay)
    if killed.how not in ("killed", "done"):  # with a delay it may have ended before
        return Verdict("kills", number, name, fault, OTHER, f"before the kill: {killed.how}, {killed.text}")
    return after_fault(runs, "kills", number, name, fault, killed, place)


def after_fault(
    runs: WholeRuns, kind: str, number: int, name: str, fault: str, stopped: Ended, place: Path
) -> Verdict:
    """Run a recipe again where a fault has stopped it, and compare."""
    whole = runs[name]
    out = place / "run"
    finished = _finished(out)
    tally = Tally()
    again = run(runs.work(name, out, Watch(out, tally)), place / "log.txt", tally)
    if again.how == "refused":
        named = verdicts.is_named(again.text, [str(out), str(runs.results)])
        return Verdict(kind, number, name, fault, REFUSED if named else OTHER, again.text)
    if again.how != "done":
        return Verdict(kind, number, name, fault, OTHER, f"{again.how}: {again.text[-2000:]}")
    wrong = verdicts.of_results(out, runs.results, whole.names, again.result, whole.returned)
    wrong += [
        f"{done} was complete and was made again"
        for done, file in finished.items()
        if _finished(out).get(done) != file
    ]
    if again.steps > whole.ended.steps - stopped.safe:
        wrong.append(
            f"lost work: {again.steps} of {whole.ended.steps} steps after the fault, although {stopped.safe} were safe"
        )
    return Verdict(kind, number, name, fault, OTHER if wrong else SAME, " | ".join(wrong)[:2000])


def _killed(runs: WholeRuns, name: str, out: Path, log: Path, moment: int, delay: float) -> Ended:
    tally = Tally()
    if not delay:
        return run(runs.work(name, out, Watch(out, tally, moment, kill_self)), log, tally)
    heard, tell = os.pipe()
    watch = Watch(out, tally, moment, lambda: os.write(tell, b"!"))
    try:
        return run(runs.work(name, out, watch), log, tally, stop=(heard, delay))
    finally:
        os.close(heard)
        os.close(tell)


def _finished(out: Path) -> dict[str, tuple[int, int]]:
    """The completion records of finished stages, each with what tells it from a new one."""
    found = {}
    for file in out.rglob("stage.json"):
        if not any(part.startswith(".") for part in file.relative_to(out).parts):
            stat = file.stat()
            found[file.relative_to(out).as_posix()] = (stat.st_ino, stat.st_mtime_ns)
    return found
