"""What pipelines share: flags that they pass on to their stages, documented once, in the stage."""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from accelerate import PartialState

from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import environment, read_proof, run_stage, write_json

PassedOn = Mapping[ModuleType, Mapping[str, str]]  # stage -> {flag of the pipeline: flag of the stage}


@dataclasses.dataclass(kw_only=True)
class PipelineArguments:
    """What every pipeline asks for; the flags of its stages are documented there."""

    output_dir: str = dataclasses.field(metadata={"help": "run folder; the model goes to <output_dir>/model"})
    mode: Literal["quick", "full"] = dataclasses.field(
        default="full",
        metadata={
            "help": "configurations of the stages: quick.yaml (minutes on two CPU cores) or default.yaml (a GPU)"
        },
    )
    seed: int = dataclasses.field(default=42, metadata={"help": "seed of every stage"})
    no_plot: bool = dataclasses.field(default=False, metadata={"help": "draw no plots"})
    num_workers: int | None = dataclasses.field(
        default=None, metadata={"help": "worker processes that load audio, per training process"}
    )
    stage_options: list[str] = dataclasses.field(
        default_factory=list,
        metadata={
            "action": "extend",
            "help": "further options, each as STAGE.FLAG=VALUE; STAGE is a recipe, where what the "
            "pipeline sets goes first, or "
            "a folder of the run, which goes over all else",
        },
    )
    resume: bool = dataclasses.field(
        default=False, metadata={"help": "skip finished stages, continue an interrupted one"}
    )
    log_file: str | None = dataclasses.field(default=None, metadata={"help": "append the log to this file"})


def same_names(*flags: str) -> dict[str, str]:
    """Flags that a pipeline and its stage call alike."""
    return {flag: flag for flag in flags}


def all_flags(kind: type, without: Iterable[str] = ()) -> dict[str, str]:
    """All flags of a dataclass of arguments but those that the pipeline sets itself."""
    return same_names(*(field.name for field in dataclasses.fields(kind) if field.name not in without))


def passed_on_arguments(passed_on: PassedOn) -> type:
    """A dataclass of those flags, each with the stage's type and help, and None unless it is given.

    A value that is not given is left to the stage's own configuration.
    """
    flags: dict[str, tuple[str, Any, dataclasses.Field]] = {}
    for stage, names in passed_on.items():
        for flag, name in names.items():
            flags.setdefault(flag, (flag, *_optional(_fields(stage)[name], keep_aliases=flag == name)))
    return dataclasses.make_dataclass("PassedOn", flags.values())


def stage_options(options: Iterable[str], stages: Mapping[str, ModuleType]) -> dict[str, list[str]]:
    """`STAGE.FLAG=VALUE` as command-line words per stage.

    Raises:
        UserError: an option of another form, for no stage, or for a flag that its stage does not have.
    """
    found: dict[str, list[str]] = {}
    for option in options:
        stage, dot, flag = option.partition(".")
        if stage not in stages or not dot or "=" not in flag:
            raise UserError(
                f"--stage_options takes STAGE.FLAG=VALUE with a stage of {', '.join(stages)}, got {option!r}"
            )
        name, known = flag.partition("=")[0].replace("-", "_"), _fields(stages[stage])
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            raise UserError(
                f"--stage_options {option}: {stage} has no flag {name}"
                + (f"; did you mean {nearest[0]}?" if nearest else "")
            )
        found.setdefault(stage, []).append(f"--{flag}")
    return found


def stage_words(flags: Mapping[str, Any], names: Mapping[str, str], passed_on: Any) -> list[str]:
    """The command line of a stage.

    Args:
        flags: what the pipeline sets; None leaves a flag out, a list takes several words.
        names: of the flags passed on to this stage, as in `PassedOn`.
        passed_on: what was given to the pipeline; comes before what the pipeline sets.
    """
    words: list[str] = []
    for flag, value in {
        **flags,
        **{name: getattr(passed_on, flag) for flag, name in names.items() if getattr(passed_on, flag) is not None},
    }.items():
        if isinstance(value, list):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words.append(f"--{flag}={value}")
    return words


def stage_runner(
    configs: Path,
    quick: Collection[ModuleType],
    output_dir: Path,
    passed_on: Any,
    names: PassedOn,
    options: Mapping[str, list[str]],
    **everywhere: Any,
) -> Callable[..., dict]:
    """A function `run(stage, folder, **flags)` that runs a stage of a pipeline and returns its metrics.

    The stage starts from its own configuration. Over that go, each over the one before: options for the recipe, what
    the pipeline sets, flags passed on, options for the folder.

    Args:
        configs: folder of the recipes' configurations.
        quick: stages that start from `quick.yaml`; the others do from `default.yaml`.
        output_dir: of the run; a stage with an `output_dir` gets `<output_dir>/<folder>`.
        passed_on, names: see `passed_on_arguments`.
        options: what `stage_options` returned.
        everywhere: flags that every stage gets that has them.
    """

    def run(stage: ModuleType, folder: str, **flags: Any) -> dict:
        recipe, size = stage.__name__.rsplit(".", 1)[-1], "quick" if stage in quick else "default"
        common = {
            flag: value
            for flag, value in {"output_dir": output_dir / folder, **everywhere}.items()
            if flag in _fields(stage)
        }
        return stage.main(
            [
                "--config",
                str(configs / recipe / f"{size}.yaml"),
                *options.get(recipe, []),
                *stage_words({**flags, **common}, names.get(stage, {}), passed_on),
                *options.get(folder, []),
            ]
        )

    return run


def finish_pipeline(
    output_dir: Path,
    results: dict,
    release: Callable[[Path, Path, dict], dict],
    *,
    config: Any,
    inputs: Iterable[Path],
    resume: bool,
    seconds: float = 0.0,
) -> dict:
    """Add time and environment to the results, release the model to `<output_dir>/model`, write `results.json`.

    Args:
        release: called with the folder to fill, `output_dir` and the results; returns metrics.
        config, inputs: what the release depends on, beside its figures, as `run_stage` takes them.
        seconds: that steps took which are no stages.
    """
    stages = sum(
        proof["seconds"]
        for folder, proof in ((folder, read_proof(folder)) for folder in output_dir.iterdir())
        if proof and folder.name != "model"
    )
    results = {**results, "environment": environment(), "seconds": round(stages + seconds)}
    model, figures = output_dir / "model", output_dir / "results.json"
    if PartialState().is_main_process:
        write_json(figures, results)
    PartialState().wait_for_everyone()  # it is an input of the stage, whose others would else find the earlier one
    run_stage(
        model,
        lambda folder: release(folder, output_dir, results),
        config=config,
        inputs=[*inputs, figures],
        resume=resume,
        alone=True,
    )
    if PartialState().is_main_process:
        print(f"model: {model}\ncard: {model / 'README.md'}\nfigures: {figures}")
    return results


def _fields(stage: ModuleType) -> dict[str, dataclasses.Field]:
    kinds = stage.ARGUMENTS if "ARGUMENTS" in vars(stage) else (stage.Arguments,)
    return {field.name: field for kind in kinds for field in dataclasses.fields(kind)}


def _optional(field: dataclasses.Field, keep_aliases: bool) -> tuple[Any, dataclasses.Field]:
    """Type and field of the same flag that may be left out."""
    metadata = {key: value for key, value in field.metadata.items() if keep_aliases or key != "aliases"}
    if field.type in (bool, bool | None):
        metadata |= {
            "nargs": "?",
            "const": True,
        }  # a bare flag, which HfArgumentParser denies to a boolean that may be None
    kind = field.type if type(None) in getattr(field.type, "__args__", ()) else field.type | None
    return kind, dataclasses.field(default=None, metadata=metadata)
