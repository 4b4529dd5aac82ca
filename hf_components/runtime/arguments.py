"""Configuration: dataclasses filled from `--config FILE` (YAML or JSON), overridden by the command line."""

import argparse
import dataclasses
import difflib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser

from hf_components.runtime.errors import UserError
from hf_components.runtime.logs import set_up_logging
from hf_components.runtime.stages import join_processes


class _Parser(HfArgumentParser):
    def error(self, message: str) -> None:
        raise UserError(message)


def parse_arguments(dataclass_types: Any, argv: list[str] | None = None, description: str | None = None) -> tuple:
    """Parse `argv` into one instance per dataclass and set up logging.

    The keys of `--config FILE` become flags in front of the command line, so both go through the same
    conversion and the same checks, and the command line wins. `--num-experts` and `--num_experts` are one flag. Keys
    of the file may be grouped in sections (`training:`), whose names mean nothing.

    Args:
        dataclass_types: dataclass or sequence of dataclasses; every field documents itself by `metadata["help"]`.
        argv: arguments without the program's name; `sys.argv[1:]` if None.
        description: shown by `--help`, normally the recipe's `__doc__`.
    Returns:
        the instances, in the order of `dataclass_types`.
    Raises:
        UserError: unknown flag or key (with the nearest right one), wrong value, unreadable configuration file.
    """
    _stay_on_cpu_without_accelerator()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # before a dataclass asks for the device, and with it for processes that wait half an hour only
        join_processes()
    types = [dataclass_types] if dataclasses.is_dataclass(dataclass_types) else list(dataclass_types)
    parser = _Parser(
        types, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of defaults for the flags below")
    argv = sys.argv[1:] if argv is None else list(argv)

    config_only = _Parser([], add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    config_file = config_only.parse_known_args(argv)[0].config
    flags = {option: action for action in parser._actions for option in action.option_strings}
    # From the annotations, since HfArgumentParser narrows the fields' types.
    mappings = {
        name
        for kind in types
        for parent in kind.__mro__
        for name, annotation in inspect.get_annotations(parent).items()
        if "dict" in str(annotation)
    }
    from_file = _flags_of_file(Path(config_file), flags, mappings) if config_file else []

    try:
        words = from_file + [_with_underscores(word, flags) for word in argv]
        *instances, _, unknown = parser.parse_args_into_dataclasses(
            words, return_remaining_strings=True, look_for_args_file=False
        )
    except ValueError as error:  # a dataclass refuses a combination of values
        raise UserError(str(error)) from error
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}{_nearest(unknown[0].split('=')[0], flags)}")
    set_up_logging(next((i.log_file for i in instances if getattr(i, "log_file", None)), None))
    return tuple(instances)


def parse_pairs(flag: str, words: list[str] | None) -> dict[str, str] | None:
    """The words OURS=THEIRS of a flag as a mapping; None without any.

    Raises:
        UserError: a word without "=".
    """
    if words is None:
        return None
    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"{flag} takes pairs of our and the file's name, such as child_id=speaker, got {wrong[0]!r}")
    return dict(word.split("=", 1) for word in words)


def _stay_on_cpu_without_accelerator() -> None:
    # `accelerate launch` hands `use_cpu` to a lone process only. Without it accelerate takes each of several CPU
    # processes for a run of its own, and all of them write the same files.
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"


def _with_underscores(word: str, flags: dict[str, argparse.Action]) -> str:
    # HfArgumentParser knows flags with dashes too, but not their aliases.
    name, equals, value = word.partition("=")
    flag = f"--{name[2:].replace('-', '_')}"
    return flag + equals + value if name.startswith("--") and flag in flags else word


def _flags_of_file(path: Path, flags: dict[str, argparse.Action], mappings: set[str]) -> list[str]:
    try:
        values = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML or JSON: {error}") from error
    values = {} if values is None else values  # an empty file
    if not isinstance(values, dict):
        raise UserError(f"{path} must map keys to values, got {type(values).__name__}")
    arguments: list[str] = []
    for key, value in _without_sections(values, mappings, path):
        flag = f"--{key}"
        if flag not in flags or key in ("config", "help"):
            raise UserError(f"{path}: unknown key {key!r}{_nearest(flag, flags)}")
        if value is None:
            continue  # an empty value leaves the default
        if isinstance(value, dict):
            arguments += [flag, json.dumps(value)]
        elif value == [] and flags[flag].nargs == "+":
            flags[flag].default, flags[flag].required = [], False  # argparse has no words for an empty list
        elif isinstance(value, list):
            arguments += [flag, *map(str, value)]
        else:
            arguments += [f"{flag}={value}"]  # one token, so that a value may start with a dash
    return arguments


def _without_sections(values: dict, mappings: set[str], path: Path) -> Iterator[tuple[Any, Any]]:
    """The keys and values of a file; a mapping is a section, which only groups its keys, unless a flag takes one by
    that name.

    A section may have the name of another flag: `model:` and `data:` are both.
    """
    section_of: dict[Any, Any] = {}
    for section, keys in values.items():
        for key, value in keys.items() if isinstance(keys, dict) and section not in mappings else [(section, keys)]:
            if key in section_of:
                raise UserError(
                    f"{path}: {key!r} is given twice, under {section_of[key]!r} and {section!r}; leave one out"
                )
            section_of[key] = section
            yield key, value


def _nearest(flag: str, flags: dict[str, argparse.Action]) -> str:
    match = difflib.get_close_matches(flag.replace("-", "_"), [f.replace("-", "_") for f in flags], n=1, cutoff=0.6)
    return f"; did you mean --{match[0].lstrip('_')}?" if match else "; --help lists the known ones"
