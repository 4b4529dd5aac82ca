"""Flags of recipes: fields of dataclasses with help, bounds and other names."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hf_components.runtime.errors import UserError

BOUNDS = ("min", "max", "above", "below")
Needs = str | Mapping[str, Any] | tuple[str | Mapping[str, Any], ...]
SEEDS = {"min": 0, "max": 2**32 - 1}  # what numpy takes


def flag(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    aliases: Sequence[str] = (),
    read: Callable[[str], Any] | None = None,
    needs: Needs | None = None,
    **argparse_options: Any,
) -> Any:
    """A dataclass field that is a flag of a recipe.

    `parse_arguments` checks the bounds before any work, and `--help` shows them. They hold for each number of a list.

    Args:
        help: description of the flag; its only documentation.
        default: default value; without one the flag is required. A list is copied for each instance.
        min, max: smallest and largest value allowed.
        above, below: bounds that the value must not reach.
        choices: all values allowed.
        aliases: other names, each with its dashes.
        needs: what else must be given for this flag to have an effect: the name of a flag, a mapping of flags to
            their values (True: any, False: none), or a tuple of these, of which one is enough. `parse_arguments` warns
            of a flag without effect.
        read: function that makes the value of the word that the user wrote; its UserError is told with the flag.
        argparse_options: `nargs`, `const`, `action` of `argparse.ArgumentParser.add_argument`.
    """
    given = {
        "min": min,
        "max": max,
        "above": above,
        "below": below,
        "choices": choices,
        "aliases": list(aliases),
        "read": read,
        "needs": needs,
    }
    metadata = {"help": help, **{name: value for name, value in given.items() if value not in (None, [])}}
    metadata |= argparse_options
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def add_bounds(kind: type, bounds: Mapping[str, Mapping[str, Any]]) -> None:
    """Add bounds, and what a flag needs, to fields that a dataclass inherits from a class of another library."""
    for name, limits in bounds.items():
        inherited = kind.__dataclass_fields__[name]
        own = dataclasses.field(
            default=inherited.default,
            default_factory=inherited.default_factory,
            metadata={**inherited.metadata, **limits},
        )
        for attribute in ("name", "type", "_field_type", "init", "repr", "hash", "compare", "kw_only"):
            setattr(own, attribute, getattr(inherited, attribute))
        own.metadata = MappingProxyType(dict(own.metadata))
        kind.__dataclass_fields__[name] = own


def in_words(bounds: Mapping[str, float]) -> str:
    """Bounds in words: "at least 1", "in (0, 100]", "above 0"."""
    low = next((name for name in ("min", "above") if name in bounds), None)
    high = next((name for name in ("max", "below") if name in bounds), None)
    if low and high:
        opening = "[("[low == "above"]
        closing = "])"[high == "below"]
        return f"in {opening}{_figure(bounds[low])}, {_figure(bounds[high])}{closing}"
    name = low or high
    words = {"min": "at least", "max": "at most", "above": "above", "below": "below"}
    return f"{words[name]} {_figure(bounds[name])}"


def _figure(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def keeps(value: float, bounds: Mapping[str, float]) -> bool:
    """Whether a number is finite and within bounds."""
    return (
        math.isfinite(value)
        and value >= bounds.get("min", -math.inf)
        and value <= bounds.get("max", math.inf)
        and not value <= bounds.get("above", -math.inf)
        and not value >= bounds.get("below", math.inf)
    )


def ways_of(needs: Needs) -> list[Mapping[str, Any]]:
    """The sets of conditions, one of which must hold, as flags and their wanted values."""
    return [{way: True} if isinstance(way, str) else way for way in (needs if isinstance(needs, tuple) else (needs,))]


def unmet(needs: Needs, values: Mapping[str, Any]) -> str | None:
    """Why a flag has no effect, such as "without --noise"; None if it has one.

    Args:
        needs: see `flag`. Conditions on flags that the recipe does not have do not count.
        values: the value of each flag.
    """
    known = [{name: wanted for name, wanted in way.items() if name in values} for way in ways_of(needs)]
    ways = [way for way in known if way]
    if not ways or any(all(_holds(values[name], wanted) for name, wanted in way.items()) for way in ways):
        return None
    missing = (
        [_missing(name, wanted) for name, wanted in way.items() if not _holds(values[name], wanted)] for way in ways
    )
    return " or ".join(" and ".join(words) for words in missing)


def _holds(value: Any, wanted: Any) -> bool:
    """Whether a flag has the wanted value, or one of them; True means any value, False means none."""
    if isinstance(wanted, bool):
        return (bool(value) and getattr(value, "value", value) not in ("no", "none")) == wanted
    found = value if isinstance(value, (list, tuple)) else (value,)
    return any(getattr(one, "value", one) in _several(wanted) for one in found)


def _missing(name: str, wanted: Any) -> str:
    if wanted is False:
        return f"with --{name}"
    return f"without --{name}" if wanted is True else f"without --{name} {' or '.join(map(str, _several(wanted)))}"


def _several(wanted: Any) -> tuple:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def bounded(kind: Callable[[str], float], bounds: Mapping[str, float]) -> Callable[[str], float]:
    """`int` or `float` for argparse, which rejects values out of bounds."""

    def read(word: str) -> float:
        value = kind(word)
        if not keeps(value, bounds):
            rule = "finite" if math.isinf(value) or not bounds else in_words(bounds)
            raise argparse.ArgumentTypeError(f"must {'lie' if rule.startswith('in ') else 'be'} {rule}, got {word}")
        return value

    read.__name__ = kind.__name__  # argparse shows it: invalid int value
    return read


def reader(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """The function for argparse, which names the flag in its error."""

    def read(word: str) -> Any:
        try:
            return function(word)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read
