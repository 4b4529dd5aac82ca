"""A fault campaign on tiny models: kills, power cuts, damaged artefacts, signals, full disks, hostile input.

    python tests/campaign.py --kills 5 --power_cuts 5 --bit_flips 20 --mutations 200 --seed 3 --output_dir runs/faults

Each trial ends in a verdict: `same_bits` (as if there had been no fault), `refused` (by an error that names the thing
and the remedy), or `other` (a traceback, another result, lost work, no end). `<output_dir>/results.json` counts them,
also by fault and by recipe, artefact or form of input, and lists each `other`, which `--repeat KIND NUMBER` repeats.
It is written every few trials, so that an interrupted campaign has figures too. Exit code 0: there is no `other`.

Trials are drawn from the seed: trial n of a kind is the same in every campaign with that seed. A kill some
milliseconds after an event hits another instruction each time. The parts are in tests/support/faults.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

for name, value in {  # before the libraries are imported, which read them once
    "OMP_NUM_THREADS": "1",  # a process with threads cannot be forked
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "UNDERHEARD_LOG_LEVEL": "WARNING",
}.items():
    os.environ[name] = value

ROOT = Path(__file__).resolve().parents[1]
OF_RUNS = ("kills", "power_cuts", "bit_flips", "signals", "clocks", "full_disks")
KINDS = (*OF_RUNS, "mutations")
FLUSHED = 10.0  # seconds between two writings of the results


def main(argv: list[str] | None = None) -> dict:
    args = parser().parse_args(argv)
    if args.repeat:
        vars(args).update({kind: int(kind == args.repeat[0]) for kind in KINDS})
    folder = Path(args.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    os.environ["HF_HOME"] = str(work / "cache")
    os.environ["HF_MODULES_CACHE"] = str(work / "modules")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

    import torch
    from faults.verdicts import Results

    from hf_components.runtime import write_json

    torch.set_num_threads(1)
    start = flushed = time.monotonic()
    results = Results(args.seed, {kind: getattr(args, kind) for kind in KINDS})
    for verdict in trials(args, work):
        results.add(verdict)
        if time.monotonic() - flushed > FLUSHED:
            flushed = time.monotonic()
            write_json(folder / "results.json", results.summary(flushed - start))
    summary = results.summary(time.monotonic() - start)
    write_json(folder / "results.json", summary)
    if (others := work / "mutations" / "others").exists():
        shutil.copytree(others, folder / "spoiled", dirs_exist_ok=True)
    if not args.keep:
        shutil.rmtree(work, ignore_errors=True)
    return summary


def trials(args: argparse.Namespace, work: Path) -> Iterator:
    """The verdicts of all trials, the kinds in turn, so that every kind has figures if time runs out."""
    from faults import damage, full_disks, kills, mutations, power_cuts, stops
    from faults.whole_runs import WholeRuns, import_recipes

    import_recipes()
    wanted = {kind: getattr(args, kind) for kind in KINDS}
    runs = WholeRuns(work) if any(wanted[kind] for kind in OF_RUNS) else None
    made: dict[str, Callable] = {
        "kills": kills.trial,
        "power_cuts": power_cuts.trial,
        "bit_flips": damage.trial,
        "signals": stops.stopped,
        "clocks": stops.set_back,
        "full_disks": full_disks.trial,
    }
    kinds = {kind: _of_runs(trial, kind, runs, args, work) for kind, trial in made.items() if wanted[kind]}
    if wanted["mutations"]:
        kinds["mutations"] = mutations.trials(args.seed, numbers(args, "mutations"), work / "mutations")
    yield from in_turn(kinds, wanted)


def _of_runs(trial: Callable, kind: str, runs, args: argparse.Namespace, work: Path) -> Iterator:
    import random

    for number in numbers(args, kind):
        place = work / kind / str(number)
        place.mkdir(parents=True)
        verdict = trial(runs, number, random.Random(f"{args.seed}/{kind}/{number}"), place, args.recipes)
        yield verdict
        if verdict.verdict != "other" or not args.keep:
            shutil.rmtree(place)


def numbers(args: argparse.Namespace, kind: str) -> range:
    """The numbers of the trials of a kind."""
    first = int(args.repeat[1]) if args.repeat else 0
    return range(first, first + getattr(args, kind))


def in_turn(kinds: dict[str, Iterator], wanted: dict[str, int]) -> Iterator:
    """One of each kind after the other, in proportion to how many are wanted."""
    done = dict.fromkeys(kinds, 0)
    while kinds:
        kind = min(kinds, key=lambda one: done[one] / wanted[one])
        done[kind] += 1
        try:
            yield next(kinds[kind])
        except StopIteration:
            del kinds[kind]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kills", type=int, default=0, help="runs that are killed and run again")
    made.add_argument("--power_cuts", type=int, default=0, help="runs that lose what was not synced, and run again")
    made.add_argument("--bit_flips", type=int, default=0, help="artefacts that are damaged and read")
    made.add_argument("--signals", type=int, default=0, help="runs that SIGTERM or Ctrl-C stops, and run again")
    made.add_argument("--clocks", type=int, default=0, help="runs that are killed, and run again a year before")
    made.add_argument("--full_disks", type=int, default=0, help="runs on a disk that fails, then on one that works")
    made.add_argument("--mutations", type=int, default=0, help="files of input that are spoiled and read")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--output_dir", required=True, help="folder for results.json")
    made.add_argument("--recipes", nargs="+", help="only these recipes; default: all")
    made.add_argument("--repeat", nargs=2, metavar=("KIND", "NUMBER"), help="only this trial, as `others` names it")
    made.add_argument("--keep", action="store_true", help="keep the folders of trials that end in another way")
    return made


if __name__ == "__main__":
    found = main()
    print(f"{found['same_bits']} same bits, {found['refused']} refused by name, {found['other']} other")
    sys.exit(found["other"] > 0)
