"""The page that `--help` prints: first the recipe's own flags, last those that come from transformers."""

import argparse
import dataclasses
import re
from collections.abc import Iterable, Sequence

from hf_components.runtime import recipe_arguments

MOST_CHOICES = 12  # of which a flag shows all
OF_EVERY_RECIPE = "every recipe"
OF_TRANSFORMERS = "transformers.TrainingArguments"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows each flag in a line, by one name and its negation; other spellings and earlier names work too."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default not in (None, argparse.SUPPRESS, [], "") and not action.required
        if has_default and action.option_strings and "%(default)" not in (action.help or ""):
            return f"{action.help.rstrip('.')} (default: %(default)s)"
        return action.help

    def _format_action_invocation(self, action: argparse.Action) -> str:
        name = ", ".join(action.option_strings) if action.dest == "help" else action.option_strings[0]
        if action.nargs == "?":  # true or false, which may be left out
            return f"{name}, {action.negation}" if hasattr(action, "negation") else name
        values = "" if action.nargs == 0 else f" {self._format_args(action, action.dest.upper())}"
        return name + values

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str):
        has_many = action.choices is not None and len(action.choices) > MOST_CHOICES
        if action.metavar is None and has_many:
            return lambda size: (default_metavar,) * size
        return super()._metavar_formatter(action, default_metavar)


def format_help(parser: argparse.ArgumentParser, types: Sequence[type]) -> str:
    """The page: a short usage, the description, `--config`, and a section of flags for each dataclass."""
    actions = {action.dest: action for action in parser._actions if action.help != argparse.SUPPRESS}
    required = [f"{action.option_strings[0]} {action.dest.upper()}" for action in actions.values() if action.required]
    formatter = parser.formatter_class(parser.prog)
    formatter.add_usage(" ".join(["%(prog)s [--config FILE]", *required, "[flags]"]), [], [])
    formatter.add_text(parser.description)
    for title, names in {"configuration and help": ["config", "help"], **_sections(types)}.items():
        formatter.start_section(title)
        formatter.add_arguments(actions[name] for name in names if name in actions)
        formatter.end_section()
    return formatter.format_help()


def _sections(types: Iterable[type]) -> dict[str, list[str]]:
    """The names of flags by the title of their section."""
    common = {OF_EVERY_RECIPE: [], OF_TRANSFORMERS: []}
    sections: dict[str, list[str]] = {}
    for kind in types:
        title = _in_words(kind) if sections else "this recipe"
        for field in (one for one in dataclasses.fields(kind) if one.init):
            owner = next(parent for parent in kind.__mro__ if field.name in vars(parent).get("__annotations__", {}))
            if owner.__module__ == recipe_arguments.__name__:
                common[OF_EVERY_RECIPE].append(field.name)
            elif owner.__module__.startswith("transformers."):
                common[OF_TRANSFORMERS].append(field.name)
            else:
                sections.setdefault(title, []).append(field.name)
    return {title: names for title, names in (sections | common).items() if names}


def _in_words(kind: type) -> str:
    """PublishModelArguments -> "publish model"."""
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Arguments")).lower()
