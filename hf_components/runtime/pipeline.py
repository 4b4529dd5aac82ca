"""`Pipeline`: a recipe made of recipes, each a step in a folder of its own."""

import dataclasses
import difflib
import json
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from accelerate import PartialState

from hf_components.runtime.arguments import check_words, parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import flag
from hf_components.runtime.recipe_arguments import RecipeArguments, SeedArguments
from hf_components.runtime.stages import environment, read_completion, run_stage, write_json

logger = logging.getLogger(__name__)

PassedOn = Mapping[ModuleType, Mapping[str, str]]  # step -> {flag of the pipeline: flag of the step}


@dataclasses.dataclass(kw_only=True)
class PipelineArguments(RecipeArguments, SeedArguments):
    """What every pipeline asks for; the flags of its steps are documented there."""

    mode: Literal["quick", "full"] = flag(
        "configurations of the steps: quick.yaml (minutes on two CPU cores) or default.yaml (a GPU)", default="full"
    )
    dry_run: bool = flag("print the steps and the command of each, and stop", default=False)
    no_plot: bool = flag("draw no plots", default=False)
    num_workers: int | None = flag("worker processes that load audio, per training process", default=None, min=0)
    stage_options: list[str] = flag(
        "further options, each as STEP.FLAG=VALUE; STEP is a recipe, where what the pipeline sets goes first, or a "
        "folder of the run, which goes over all else",
        default=[],
        action="extend",
    )


class Later:
    """A figure that only a step's run will tell: a plan shows its name, and takes it to be large."""

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
    """A step that was run, or is planned: its folder and what its `main` returned."""

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
        return self.metrics[name] if isinstance(self.metrics, Later) else json.loads((self / name).read_text())


class Pipeline:
    """The command line of a pipeline, and the steps that it takes.

    A step starts from its own configuration, quick.yaml or default.yaml. Over that go, each over the one before:
    options for the recipe (`--stage_options`), what the pipeline sets, flags of the pipeline that are passed on,
    options for the folder.

    Args:
        configs: folder of the recipes' configurations.
        arguments: dataclasses: the pipeline's own `PipelineArguments`, `PublishModelArguments`, and what
            `passed_on_arguments` made.
        passed_on: flags that steps get from the command line.
        argv: arguments without the program's name; `sys.argv[1:]` if None.
        description: shown by `--help`.
    """

    def __init__(
        self, configs: Path, arguments: tuple, passed_on: PassedOn, argv: list[str] | None, description: str | None
    ):
        self.args, self.publishing, self.passed_on = parse_arguments(arguments, argv, description)
        self.configs = configs
        self.names = passed_on
        self.out = Path(self.args.output_dir)
        self.is_plan = True
        self.steps: dict[str, Step] = {}
        self._recipes: dict[str, ModuleType] = {}
        self._options: dict[str, list[str]] = {}
        self._plan: list[str] = []

    def follow(self, take_steps: Callable[["Pipeline"], None]) -> dict[str, Step]:
        """Take the steps; with `--dry_run` print them.

        `take_steps` is called twice, since only a plan tells how many steps there are, and whether their flags and
        `--stage_options` are right.

        Args:
            take_steps: calls `run`, `everywhere` and `check` of this pipeline.
        Returns:
            the steps by folder.
        Raises:
            UserError: a step does not take what it would get, or `--stage_options` names no step.
        """
        self._go_through(take_steps)  # which steps there are
        self._options = self._read_options()
        self._go_through(take_steps)  # whether they take their flags
        planned = self._plan
        if self.args.dry_run:
            PartialState().print("\n".join(f"{i}. {step}" for i, step in enumerate(planned, 1)))
            return self.steps
        self.is_plan = False
        self._planned = len(planned)
        self._go_through(take_steps)
        return self.steps

    def everywhere(self, **flags: Any) -> None:
        """Flags of every further step that has them."""
        self._everywhere |= flags

    def check(self, function: Callable, *arguments: Any) -> None:
        """Call a function that looks at what steps have made; not while planning."""
        if not self.is_plan:
            function(*arguments)

    def run(self, recipe: ModuleType, folder: str, *, size: str | None = None, **flags: Any) -> Step:
        """Run a recipe as the step of this folder, or plan to.

        Args:
            recipe: module in recipes/, whose `main` is called.
            folder: name below `--output_dir`; a recipe with `--output_dir` writes there.
            size: "quick" or "default", instead of what `--mode` says.
            flags: what the pipeline sets; None leaves a flag out, a list takes several words.
        """
        size = size or ("quick" if self.args.mode == "quick" else "default")
        words = self._words(recipe, folder, size, flags)
        command = shlex.join(["accelerate", "launch", f"recipes/{_name(recipe)}.py", *words])
        self._plan.append(f"{folder}: {command}")
        self._recipes[folder] = recipe
        if self.is_plan:
            check_words(_kinds(recipe), [word for word in words if not re.search("=<.*>$", word)])
            metrics = Later(folder)
        else:
            logger.info("step %d of %d, %s; alone: %s", len(self._plan), self._planned, folder, command)
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
        """Add time and environment to the results, release the model to `<output_dir>/model`, write `results.json`.

        Args:
            release: called with the folder to fill, `output_dir` and the results; returns metrics.
            inputs: what the release depends on, beside its figures.
            seconds: that steps took which are no stages.
        """
        completions = {folder.name: read_completion(folder) for folder in self.out.iterdir()}
        stages = sum(
            completion["seconds"] for name, completion in completions.items() if completion and name != "model"
        )
        results = {**results, "environment": environment(), "seconds": round(stages + seconds)}
        model = self.out / "model"
        figures = self.out / "results.json"
        if PartialState().is_main_process:
            write_json(figures, results)
        PartialState().wait_for_everyone()  # it is an input of the stage, whose others would else find the earlier one
        run_stage(
            model,
            lambda folder: release(folder, self.out, results),
            config=(self.args, self.passed_on),
            inputs=[*inputs, figures],
            resume=self.args.resume,
            alone=True,
        )
        if PartialState().is_main_process:
            print(f"model: {model}\ncard: {model / 'README.md'}\nfigures: {figures}", flush=True)
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

    def _words(self, recipe: ModuleType, folder: str, size: str, flags: Mapping[str, Any]) -> list[str]:
        known = _fields(recipe)
        given = {name: value for name, value in self._everywhere.items() if name in known}
        given |= {"output_dir": self.out / folder} if "output_dir" in known else {}
        given |= flags
        for name, target in self.names.get(recipe, {}).items():
            if (value := getattr(self.passed_on, name)) is not None:
                given[target] = value
        config = self.configs / _name(recipe) / f"{size}.yaml"
        shown = config.relative_to(Path.cwd()) if config.is_relative_to(Path.cwd()) else config
        return [
            *(["--config", str(shown)] if config.exists() else []),
            *self._options.get(_name(recipe), []),
            *_as_words(given),
            *self._options.get(folder, []),
        ]

    def _read_options(self) -> dict[str, list[str]]:
        """`STEP.FLAG=VALUE` as command-line words per step."""
        steps = {_name(recipe): recipe for recipe in self._recipes.values()} | self._recipes
        found: dict[str, list[str]] = {}
        for option in self.args.stage_options:
            step, dot, word = option.partition(".")
            if dot and step not in steps and (self.configs / step).is_dir():
                logger.warning("--stage_options %s: this run takes no step %s", option, step)
                continue
            if step not in steps or not dot or "=" not in word:
                raise UserError(
                    f"--stage_options takes STEP.FLAG=VALUE with a step of {', '.join(steps)}, got {option!r}"
                )
            name = word.partition("=")[0].replace("-", "_")
            known = _fields(steps[step])
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                raise UserError(
                    f"--stage_options {option}: {step} has no flag {name}"
                    + (f"; did you mean {nearest[0]}?" if nearest else "")
                )
            found.setdefault(step, []).append(f"--{word}")
        return found


def same_names(*flags: str) -> dict[str, str]:
    """Flags that a pipeline and its step call alike."""
    return {name: name for name in flags}


def all_flags(kind: type, without: Iterable[str] = ()) -> dict[str, str]:
    """All flags of a dataclass of arguments but those that the pipeline sets itself."""
    return same_names(*(field.name for field in dataclasses.fields(kind) if field.name not in without))


def passed_on_arguments(passed_on: PassedOn) -> type:
    """A dataclass of those flags, each with the step's type, bounds and help, and None unless it is given.

    A value that is not given is left to the step's own configuration.
    """
    flags: dict[str, tuple[str, Any, dataclasses.Field]] = {}
    for recipe, names in passed_on.items():
        for name, target in names.items():
            flags.setdefault(name, (name, *_optional(_fields(recipe)[target], keep_aliases=name == target)))
    return dataclasses.make_dataclass("PassedOn", flags.values())


def _name(recipe: ModuleType) -> str:
    return recipe.__name__.rsplit(".", 1)[-1]


def _kinds(recipe: ModuleType) -> tuple[type, ...]:
    return tuple(recipe.ARGUMENTS) if "ARGUMENTS" in vars(recipe) else (recipe.Arguments,)


def _fields(recipe: ModuleType) -> dict[str, dataclasses.Field]:
    return {field.name: field for kind in _kinds(recipe) for field in dataclasses.fields(kind) if field.init}


def _as_words(flags: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def _optional(field: dataclasses.Field, keep_aliases: bool) -> tuple[Any, dataclasses.Field]:
    """Type and field of the same flag that may be left out."""
    metadata = {key: value for key, value in field.metadata.items() if keep_aliases or key != "aliases"}
    if field.type in (bool, bool | None):
        # a bare flag, which HfArgumentParser denies to a boolean that may be None
        metadata |= {"nargs": "?", "const": True}
    kind = field.type if type(None) in getattr(field.type, "__args__", ()) else field.type | None
    return kind, dataclasses.field(default=None, metadata=metadata)
