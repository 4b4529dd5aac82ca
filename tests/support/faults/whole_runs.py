"""Every recipe on tiny models without a fault: the artefacts, and what runs with a fault are compared with."""

import importlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from every_recipe import command, flags_of, script_llm, write_sources

from faults.children import Ended, run
from faults.moments import Tally, Watch

# The first needs a Hub, and the others leave nothing.
LEFT_OUT = ("publish", "check_llm", "verify")
# More than three seconds each, also because they consist of the recipes above them.
LONG = (
    "pretrain_experts",
    "train_moe_whisper",
    "distil_moe_whisper",
    "finetune_whisper",
    "cross_validate",
    "run_moe_pipeline",
    "run_children_pipeline",
    "run_phonetic_pipeline",
    "run_units_pipeline",
    "run_voice_pipeline",
)
LONG_ONES = 0.1  # share of trials with a recipe of these
# More steps, a checkpoint after every second one, and shorter audio contexts.
CTC = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2}
WHISPER = {**CTC, "full_context_fraction": 0.25}
SMALLER = {
    "pretrain_experts": WHISPER,
    "train_moe_whisper": WHISPER,
    "finetune_whisper": WHISPER,
    "distil_moe_whisper": {**WHISPER, "per_device_train_batch_size": 4},
    "finetune_asr": CTC,
    "train_demo_recogniser": {**CTC, "max_steps": 12},
    "pretrain_router": {"save_every_n_epochs": 2},
    "train_unit_vocoder": {"checkpoint_every": 1, "epochs": 3},
    "make_demo_corpus": {"train_speakers": 1, "utterances_per_speaker": 4},
    "pack_submission": {"verify": False},  # which would start Python
}


def recipes() -> list[str]:
    return [name for name in flags_of(Path(), Path(), Path(), 1) if name not in LEFT_OUT]


def import_recipes() -> None:
    """Import all that runs need, before any is forked."""
    for name in recipes():
        importlib.import_module(f"recipes.{name}")


@dataclass
class Whole:
    """A run without a fault.

    Attributes:
        ended: how it ended, with the numbers of its events and steps.
        returned: what `main` returned.
        names: what it left in the folder of all runs.
    """

    ended: Ended
    returned: Any
    names: list[str]


class WholeRuns:
    """Runs of recipes without faults, each made when it is first asked for, after those that it needs.

    Args:
        folder: folder for sources, results and logs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.sources = folder / "sources"
        self.results = folder / "whole"
        self.results.mkdir(parents=True)
        self._made: dict[str, Whole] = {}
        ended = run(lambda: write_sources(self.sources) and None, folder / "sources.log")
        if ended.how != "done":
            raise RuntimeError(ended.text)
        script_llm()

    def __getitem__(self, name: str) -> Whole:
        if name not in self._made:
            for needed in self.needs(name):
                self[needed]
            tally = Tally()
            watch = Watch(self.results, tally)
            ended = run(self.work(name, self.results, watch), self.folder / f"{name}.log", tally)
            if ended.how != "done":
                raise RuntimeError(f"{name} does not run: {ended.text}")
            names = sorted(path.name for path in self.results.iterdir() if belongs(path.name, name))
            self._made[name] = Whole(ended, ended.result, names)
            print(f"{name}: {ended.events} events, {ended.steps} steps, {ended.seconds:.1f} s", file=sys.stderr)
        return self._made[name]

    def work(self, name: str, out: Path, watch: Watch | None = None) -> Callable[[], dict]:
        """The recipe with its results in `out`, as a function for a child."""

        def main() -> dict:
            if watch:
                watch.install()
            return importlib.import_module(f"recipes.{name}").main(self.words(name, out))

        return main

    def words(self, name: str, out: Path) -> list[str]:
        return command(name, self._flags(name, out), out)

    def needs(self, name: str) -> list[str]:
        """The recipes whose results a recipe reads."""
        places = [
            Path(value) for value in _texts(self._flags(name, Path("/nowhere"))) if value.startswith(str(self.results))
        ]
        first = [place.relative_to(self.results).parts[0] for place in places]
        return sorted({Path(part).stem for part in first} - {name})

    @cached_property
    def readers(self) -> dict[str, list[str]]:
        """For each recipe those that read its result, in the order of recipes."""
        found: dict[str, list[str]] = {name: [] for name in recipes()}
        for name in recipes():
            for needed in self.needs(name):
                found[needed].append(name)
        return found

    def _flags(self, name: str, out: Path) -> dict[str, Any]:
        return {**flags_of(self.sources, self.results, out, 1)[name], **SMALLER.get(name, {})}


def draw(chance: random.Random, only: list[str] | None = None) -> str:
    """A recipe at random; one of the long ones is rare."""
    names = [name for name in recipes() if not only or name in only]
    long = [name for name in names if name in LONG]
    short = [name for name in names if name not in LONG]
    if not short or (long and chance.random() < LONG_ONES):
        return chance.choice(long)
    return chance.choice(short)


def belongs(place: str, recipe: str) -> bool:
    """Whether a file or folder among all results is of this recipe: `transcribe.jsonl` is of `transcribe`."""
    return place == recipe or place.startswith((f"{recipe}.", f"{recipe}_work"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    else:
        yield str(value)
