"""SIGTERM or Ctrl-C at a moment of a recipe, or a kill and a clock that is set back; then the same command again."""

import os
import random
import signal
import time
from pathlib import Path

from faults.children import kill_self, run
from faults.kills import after_fault
from faults.moments import Tally, Watch
from faults.verdicts import OTHER, Verdict
from faults.whole_runs import WholeRuns, draw
from hf_components.runtime.signals import stop_in_order

YEAR = 365 * 86_400.0


def stopped(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Stop a recipe by a signal, as `run_recipe` does, and run it again, which a lock of the first would prevent."""
    name = draw(chance, only)
    whole = runs[name]
    moment = chance.randint(1, whole.ended.events)
    what = chance.choice((signal.SIGTERM, signal.SIGINT))
    fault = f"{what.name} at event {moment} of {whole.ended.events}"
    out = place / "run"
    out.mkdir(parents=True)
    tally = Tally()
    main = runs.work(name, out, Watch(out, tally, moment, lambda: os.kill(os.getpid(), what)))

    def work() -> dict:
        stop_in_order()
        return main()

    ended = run(work, place / "log.txt", tally)
    if ended.how not in ("stopped", "done"):  # it may come after the last instruction of the recipe
        return Verdict("signals", number, name, fault, OTHER, f"{ended.how}: {ended.text[-2000:]}")
    return after_fault(runs, "signals", number, name, fault, ended, place)


def set_back(runs: WholeRuns, number: int, chance: random.Random, place: Path, only: list[str] | None) -> Verdict:
    """Kill a recipe, give its files times at random, and run it again a year before."""
    name = draw(chance, only)
    whole = runs[name]
    moment = chance.randint(1, whole.ended.events)
    fault = f"killed at event {moment} of {whole.ended.events}, clock set back"
    out = place / "run"
    out.mkdir(parents=True)
    tally = Tally()
    killed = run(runs.work(name, out, Watch(out, tally, moment, kill_self)), place / "log.txt", tally)
    if killed.how != "killed":
        return Verdict("clocks", number, name, fault, OTHER, f"before the kill: {killed.how}, {killed.text}")
    for path in sorted(out.rglob("*")):
        moved = time.time() + chance.uniform(-YEAR, YEAR)
        os.utime(path, (moved, moved), follow_symlinks=False)
    now = time.time
    time.time = lambda: now() - YEAR  # in the runs that follow, which are forks of this process
    try:
        return after_fault(runs, "clocks", number, name, fault, killed, place)
    finally:
        time.time = now
