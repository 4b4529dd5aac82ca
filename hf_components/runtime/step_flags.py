"""Flags of the steps of a pipeline: which are passed on, and how they are written on a command line."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

PassedOn = Mapping[ModuleType, Mapping[str, str]]  # step -> {flag of the pipeline: flag of the step}


def same_names(*flags: str) -> dict[str, str]:
    """Flags that have the same name in a pipeline and in its step."""
    return {name: name for name in flags}


def all_flags(kind: type, without: Iterable[str] = ()) -> dict[str, str]:
    """All flags of a dataclass of arguments, except those that the pipeline sets itself."""
    return same_names(*(field.name for field in dataclasses.fields(kind) if field.name not in without))


def passed_on_arguments(passed_on: PassedOn) -> type:
    """A dataclass of those flags, each with the step's type, bounds and help.

    The default is None: a flag that is not given keeps the value of the step's own configuration.
    """
    flags: dict[str, tuple[str, Any, dataclasses.Field]] = {}
    for recipe, names in passed_on.items():
        for name, target in names.items():
            flags.setdefault(name, (name, *_optional(fields_of(recipe)[target], keep_aliases=name == target)))
    return dataclasses.make_dataclass("PassedOn", flags.values())


def name_of(recipe: ModuleType) -> str:
    return recipe.__name__.rsplit(".", 1)[-1]


def kinds_of(recipe: ModuleType) -> tuple[type, ...]:
    return tuple(recipe.ARGUMENTS) if "ARGUMENTS" in vars(recipe) else (recipe.Arguments,)


def fields_of(recipe: ModuleType) -> dict[str, dataclasses.Field]:
    return {field.name: field for kind in kinds_of(recipe) for field in dataclasses.fields(kind) if field.init}


def names_of(recipe: ModuleType) -> set[str]:
    """Names of a recipe's flags, also the earlier ones."""
    fields = fields_of(recipe)
    aliases = (alias for field in fields.values() for alias in field.metadata.get("aliases", ()))
    return {*fields, *(alias.lstrip("-").replace("-", "_") for alias in aliases)}


def as_words(flags: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in flags.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def in_steps(passed_on: PassedOn, names: Sequence[str]) -> str | None:
    """What to write instead of a flag that only steps have: this pipeline's own name for it, or `--stage_options`."""
    ours = [flag for flags in passed_on.values() for flag, target in flags.items() if target in names]
    if ours:
        return f"use {' or '.join(f'--{flag}' for flag in dict.fromkeys(ours))}"
    words = [f"{name_of(recipe)}.{name}=VALUE" for name in names for recipe in passed_on if name in names_of(recipe)]
    return f"it is a flag of steps: use --stage_options {' or '.join(words)}" if words else None


def _optional(field: dataclasses.Field, keep_aliases: bool) -> tuple[Any, dataclasses.Field]:
    """Type and field of the same flag, made optional."""
    # What a flag needs may be set by the step's configuration, so the step says whether it has an effect.
    left_out = {"needs"} if keep_aliases else {"needs", "aliases"}
    metadata = {key: value for key, value in field.metadata.items() if key not in left_out}
    if field.type in (bool, bool | None):
        metadata |= {"nargs": "?", "const": True}  # HfArgumentParser adds them for `bool`, not for `bool | None`
    kind = field.type if type(None) in getattr(field.type, "__args__", ()) else field.type | None
    return kind, dataclasses.field(default=None, metadata=metadata)
