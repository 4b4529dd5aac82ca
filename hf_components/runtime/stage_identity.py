"""When two runs of a stage have the same result: their settings, inputs and code, and how these differ."""

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_components.runtime.errors import first_few

logger = logging.getLogger(__name__)

PACKAGES = ("hf_components", "dataset_scripts")  # their sources and the recipe's own file are the code of a stage
# Settings that change how a stage runs or where it writes, but not its result.
NOT_PART_OF_RESULT = {
    "output_dir",
    "resume",
    "log_file",
    "logging_dir",
    "num_workers",
    "num_proc",
    "dataloader_num_workers",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_token",
    "disable_tqdm",
    "run_name",
    "plot",
    "no_plot",
    "plot_method",
    "merge",  # the merged model is made from the trained adapter
    "rebase_output_dir",
    "force_restart",
    "logging_steps",
    "logging_strategy",
    "logging_first_step",
    "save_total_limit",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "ddp_timeout",
}


def inputs_by_name(inputs: Iterable[str | Path]) -> dict[str, str]:
    """Inputs by file name, so that a run that was moved is not repeated; equal names get numbers."""
    named: dict[str, str] = {}
    for path in map(str, inputs):
        name = Path(path).name
        named[f"{name} ({len(named) + 1})" if name in named else name] = path
    return named


def place_of(path: str, output_dir: Path) -> str:
    """Where an input lies: from beside the stage if it is there or below, so that a run may be moved."""
    if not Path(path).exists():  # a Hub id
        return path
    place = Path(path).absolute()
    around = output_dir.absolute().parent
    return place.relative_to(around).as_posix() if place.is_relative_to(around) else str(place)


def result_relevant(config: dict, inputs: dict[str, str], left_out: Iterable[str]) -> dict:
    # An input counts by its name and content, not by its path.
    names = {path: name for name, path in inputs.items()}

    def named(value: Any) -> Any:
        if isinstance(value, list):
            return [named(one) for one in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {key: named(value) for key, value in config.items() if key not in left_out}


def defaults_of(config: Any) -> dict[str, Any]:
    """The default of each flag in dataclasses of arguments."""
    parts = config if isinstance(config, (list, tuple)) else (config,)
    fields = [field for part in parts if dataclasses.is_dataclass(part) for field in dataclasses.fields(part)]
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def is_same(recorded: dict, identity: dict, left_out: Iterable[str], defaults: Mapping[str, Any]) -> bool:
    """Whether the result is the same, also if settings were added or left out since it was recorded."""
    config = {key: value for key, value in recorded["config"].items() if key not in left_out}
    # A flag that is new since then does by default what was done without it.
    now = {
        key: value
        for key, value in identity["config"].items()
        if key in recorded["config"] or key not in defaults or value != defaults[key]
    }
    return {**recorded, "config": config} == {**identity, "config": now}


def difference(old: dict, new: dict) -> str:
    changes = [
        f"config.{key} changed from {old['config'].get(key)} to {new['config'].get(key)}"
        for key in sorted(old["config"].keys() | new["config"].keys())
        if old["config"].get(key) != new["config"].get(key)
    ]
    changes += [
        f"inputs.{name} changed"
        for name in sorted(old["inputs"].keys() | new["inputs"].keys())
        if old["inputs"].get(name) != new["inputs"].get(name)
    ]
    if old["code_version"] != new["code_version"]:
        changes.append(f"the version of underheard changed from {old['code_version']} to {new['code_version']}")
    return ", ".join(changes)


def source_digests(produce: Callable) -> dict[str, str]:
    root = Path(__file__).parents[2]
    sources = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    files = {path.relative_to(root).as_posix(): path for path in sources}
    recipe = vars(sys.modules[produce.__module__]).get("__file__")  # a notebook has none
    if recipe:
        files["/".join(Path(recipe).parts[-2:])] = Path(recipe)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in sorted(files.items())}


def warn_of_changed_sources(old: dict[str, str], new: dict[str, str], what: str, advice: str) -> None:
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed and PartialState().is_main_process:
        logger.warning("%s, but the code changed since: %s; %s", what, first_few(changed), advice)
