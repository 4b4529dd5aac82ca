"""`Pipeline`: a recipe that runs other recipes as steps, each in its own folder."""

import dataclasses
import difflib
import functools
import logging
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from accelerate import PartialState

from hf_components.runtime.arguments import check_words, given_flags, parse_arguments
from hf_components.runtime.completion import environment, read_completion, write_json
from hf_components.runtime.errors import UserError
from hf_components.runtime.files import require_there
from hf_components.runtime.flags import flag
from hf_components.runtime.launcher import launch_words
from hf_components.runtime.logs import write_to_file
from hf_components.runtime.recipe_arguments import RecipeArguments, SeedArguments
from hf_components.runtime.records import read_record
from hf_components.runtime.stages import run_stage
from hf_components.runtime.step_flags import (
    PassedOn,
    as_words,
    fields_of,
    in_steps,
    kinds_of,
    name_of,
    names_of,
)

logger = logging.getLogger(__name__)

UNKNOWN = re.compile("=<(.*)>$")  # end of a word whose value is `Later`


@dataclasses.dataclass(kw_only=True)
class PipelineArguments(RecipeArguments, SeedArguments):
    """Flags of every pipeline; the recipes of the steps document their own."""

    mode: Literal["quick", "full"] = flag("quick: quick.yaml (two CPUs); full: default.yaml (GPU)", default="full")
    dry_run: bool = flag("print the command of each step, and stop", default=False)
    no_plot: bool = flag("draw no plots", default=False)
    num_workers: int | None = flag("worker processes that load audio, per training process", default=None, min=0)
    stage_options: list[str] = flag(
        "more options, as STEP.FLAG=VALUE; STEP is a recipe (the pipeline's own settings win) or a folder of the run "
        "(it wins over everything)",
        default=[],
        action="extend",
    )


class Later:
    """Represents, in a plan, a figure that is known only after a step has run. It compares as larger than anything."""

    def __init__(self, name: str):
        self.name = name

    def __str__(self) -> str:
        return f"<{self.name}>"

    def __getitem__(self, name: str) -> "Later":
        return Later(f"{name} of {self.name}")

    def __mul__(self, other: Any) -> "Later":
        return Later(f"{self.name} x {getattr(other, 'name', other)}")

    def __gt__(self, other: Any) -> bool:
        return True

    def __lt__(self, other: Any) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that ran or is planned: its folder, and the metrics that its `main` returned."""

    folder: Path
    metrics: dict | Later

    def __str__(self) -> str:
        return str(self.folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def __getitem__(self, name: str) -> Any:
        return self.metrics[name]

    def read(self, name: str) -> dict | Later:
        """The content of a JSON file in the folder."""
        return (
            self.metrics[name]
            if isinstance(self.metrics, Later)
            else read_record(self / name, dict, f"delete {self.folder} and run the same command again")
        )


class Pipeline:
    """The command line of a pipeline, and its steps.

    The options of a step come from these sources, each of which overrides the ones before: its quick.yaml or
    default.yaml, `--stage_options` for the recipe, values set by the pipeline, flags that the pipeline passes on,
    `--stage_options` for the folder.

    Args:
        recipe: file of the pipeline; its folder has the configurations of the steps.
        arguments: dataclasses of flags: the pipeline's own `PipelineArguments`, `PublishModelArguments`, and the
            result of `passed_on_arguments`.
        passed_on: flags of the command line that are passed on to steps.
        argv: arguments without the program's name; `sys.argv[1:]` if None.
        description: text that `--help` shows.
    """

    def __init__(
        self, recipe: str, arguments: tuple, passed_on: PassedOn, argv: list[str] | None, description: str | None
    ):
        self.args, self.publishing, self.passed_on = parse_arguments(
            arguments, argv, description, elsewhere=functools.partial(in_steps, passed_on)
        )
        self.given = given_flags(arguments, sys.argv[1:] if argv is None else argv)
        self.configs = Path(recipe).parent / "configs"
        self.names = passed_on
        self.out = Path(self.args.output_dir)
        self.is_plan = True
        self._warns = False
        self.steps: dict[str, Step] = {}
        self._recipes: dict[str, ModuleType] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._options: dict[str, list[str]] = {}
        self._plan: list[str] = []

    def follow(self, take_steps: Callable[["Pipeline"], None]) -> dict[str, Step]:
        """Run the steps; with `--dry_run` only print them.

        Before any step runs, `take_steps` is called twice to plan: first to list the steps, then to check their flags.

        Args:
            take_steps: function that calls `run`, `everywhere` and `check` of this pipeline.
        Returns:
            the steps by folder.
        Raises:
            UserError: a flag of a step is unknown or has a wrong value, or `--stage_options` names no step.
        """
        self.plan(take_steps)
        planned = self._plan
        if self.args.dry_run:
            PartialState().print("\n".join(f"{i}. {step}" for i, step in enumerate(planned, 1)))
            return self.steps
        self.is_plan = False
        self._planned = len(planned)
        self._go_through(take_steps)
        return self.steps

    def plan(self, take_steps: Callable[["Pipeline"], None]) -> dict[str, tuple[str, dict[str, Any]]]:
        """List the steps and check their flags, see `follow`; run none.

        Returns:
            recipe, and values of its flags, by folder; a flag that depends on the result of a step has its default.
        """
        for name in ("data", "model"):
            if hasattr(self.args, name) and (name in self.given or not self.args.dry_run):
                require_there(getattr(self.args, name), f"--{name} takes a folder or a Hub id")
        self._go_through(take_steps)
        self._options = self._read_options()
        self._warns = True
        self._go_through(take_steps)
        self._warn_of_steps_left_out()
        return {folder: (name_of(recipe), self._values[folder]) for folder, recipe in self._recipes.items()}

    def everywhere(self, **flags: Any) -> None:
        """Set flags of every later step that has them."""
        self._everywhere |= flags

    def planned(self, folder: str, name: str) -> Any:
        """The value that a flag of a step will have, also of a later step; None while it is not planned yet."""
        return self._values.get(folder, {}).get(name)

    def check(self, function: Callable, *arguments: Any) -> None:
        """Call a function that checks the results of steps; does nothing while planning."""
        if not self.is_plan:
            function(*arguments)

    def run(
        self, recipe: ModuleType, folder: str, *, size: str | None = None, keeps: Collection[str] = (), **flags: Any
    ) -> Step:
        """Run a recipe as a step, or plan to.

        Args:
            recipe: module in recipes/, whose `main` is called.
            folder: name of the step's folder in `--output_dir`; a recipe that has `--output_dir` writes there.
            size: "quick" or "default", to override `--mode`.
            keeps: flags of this step that flags of the command line do not replace.
            flags: values set by the pipeline; None leaves a flag out, a list gives it several values.
        """
        size = size or ("quick" if self.args.mode == "quick" else "default")
        words = self._words(recipe, folder, size, flags, keeps)
        command = self._command(recipe, words)
        self._plan.append(f"{folder}: {command}")
        self._recipes[folder] = recipe
        if self.is_plan:
            known = [word for word in words if not UNKNOWN.search(word)]
            self._values[folder] = check_words(
                kinds_of(recipe), known, is_complete=known == words, warn=self._warns and known == words
            )
            metrics = Later(folder)
        else:
            number = len(self._plan)  # some steps are planned only when an earlier one has run
            total = max(self._planned, number)
            logger.info("step %d of %d, %s; to run it alone: %s", number, total, folder, command)
            metrics = recipe.main(words)
        self.steps[folder] = Step(self.out / folder, metrics)
        return self.steps[folder]

    def finish(
        self,
        results: dict,
        release: Callable[[Path, Path, dict], dict],
        *,
        inputs: Iterable[Path],
        seconds: float = 0.0,
    ) -> dict:
        """Complete the results, write `results.json`, release the model to `<output_dir>/model`.

        Every pipeline's results have mode, seed, licence, time and environment.

        Args:
            release: function of the folder to fill, `output_dir` and the results; returns metrics.
            inputs: files and folders that the release depends on, besides `results.json`.
            seconds: time of the steps that are not stages.
        """
        completions = {folder.name: read_completion(folder) for folder in self.out.iterdir()}
        stages = sum(
            completion["seconds"] for name, completion in completions.items() if completion and name != "model"
        )
        results = {
            "mode": self.args.mode,
            "seed": self.args.seed,
            "license": self.publishing.model_license,
            **results,
            "environment": environment(),
            "seconds": round(stages + seconds),
        }
        model = self.out / "model"
        figures = self.out / "results.json"
        if PartialState().is_main_process:
            write_json(figures, results)
        PartialState().wait_for_everyone()  # results.json is an input of the stage: no process may read the old one
        run_stage(
            model,
            lambda folder: release(folder, self.out, results),
            config=(self.args, self.passed_on),
            inputs=[*inputs, figures],
            resume=self.args.resume,
            alone=True,
        )
        if PartialState().is_main_process:
            places = f"model: {model}\ncard: {model / 'README.md'}\nfigures: {figures}"
            print(places, flush=True)
            write_to_file(places)
        return results

    def _go_through(self, take_steps: Callable[["Pipeline"], None]) -> None:
        args = self.args
        self.steps = {}
        self._plan = []
        self._everywhere = {
            "resume": args.resume,
            "log_file": args.log_file,
            "seed": args.seed,
            "plot": not args.no_plot,
            "num_workers": args.num_workers,
            "dataloader_num_workers": args.num_workers,
        }
        take_steps(self)

    def _words(
        self, recipe: ModuleType, folder: str, size: str, flags: Mapping[str, Any], keeps: Collection[str]
    ) -> list[str]:
        known = fields_of(recipe)
        given = {name: value for name, value in self._everywhere.items() if name in known}
        given |= {"output_dir": self.out / folder} if "output_dir" in known else {}
        given |= flags
        for name, target in self.names.get(recipe, {}).items():
            if (value := getattr(self.passed_on, name)) is not None and target not in keeps:
                given[target] = value
        config = self.configs / name_of(recipe) / f"{size}.yaml"
        return [
            *(["--config", _from_here(config)] if config.exists() else []),
            *self._options.get(name_of(recipe), []),
            *as_words(given),
            *self._options.get(folder, []),
        ]

    def _command(self, recipe: ModuleType, words: Sequence[str]) -> str:
        """The command that runs a step alone; what a step before has to find out is said behind it."""
        known = [word for word in words if not UNKNOWN.search(word)]
        file = _from_here(self.configs.parent / f"{name_of(recipe)}.py")
        command = shlex.join([*launch_words(), file, *known])
        later = [UNKNOWN.search(word) for word in words if word not in known]
        told = [f"{word.string[: word.start()]} is the {word[1]}, known when that has run" for word in later]
        return f"{command}  # {', '.join(told)}" if told else command

    def _warn_of_steps_left_out(self) -> None:
        """Warn of flags of the command line whose steps this run does not take."""
        taken = set(self._recipes.values())
        flags = {name for recipe, names in self.names.items() if recipe in taken for name in names}
        for recipe, names in self.names.items():
            for name in sorted(self.given & names.keys() - flags):
                text = "--%s has no effect: this run takes no step %s; leave it out"
                logger.warning(text, name, name_of(recipe))

    def _read_options(self) -> dict[str, list[str]]:
        """`STEP.FLAG=VALUE` as command-line words per step."""
        steps = {name_of(recipe): recipe for recipe in self._recipes.values()} | self._recipes
        found: dict[str, list[str]] = {}
        for option in self.args.stage_options:
            step, dot, word = option.partition(".")
            if dot and step not in steps and (self.configs / step).is_dir():
                logger.warning("--stage_options %s: this run takes no step %s", option, step)
                continue
            if step not in steps or not dot or "=" not in word:
                names = ", ".join(steps)
                raise UserError(f"--stage_options takes STEP.FLAG=VALUE with a step of {names}, got {option!r}")
            name = word.partition("=")[0].replace("-", "_")
            known = names_of(steps[step])
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                advice = f"; did you mean {nearest[0]}?" if nearest else ""
                raise UserError(f"--stage_options {option}: {step} has no flag {name}{advice}")
            found.setdefault(step, []).append(f"--{word}")
        return found


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
