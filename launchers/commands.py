"""Command line and exit codes that the launchers share."""

import argparse
import difflib
import json
import re
import shlex
import sys
from collections.abc import Callable, Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAILED = 1
NOT_STARTED = 2
TIMED_OUT = 124
NO_LONGER_FOLLOWED = 130  # exit codes; 0 is success
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class UserError(ValueError):
    """Wrong input, in one line. A class of our packages would not do: launchers run in any Python."""


class Parser(argparse.ArgumentParser):
    """`LAUNCHER [its flags] RECIPE [the recipe's own arguments]`; an action may replace the recipe."""

    def __init__(self, description: str, actions: Collection[str] = ()):
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.actions = tuple(actions)
        self.flag("--dry_run", action="store_true", help="print what would be done, and do nothing")
        self.add_argument("recipe", metavar="RECIPE", help=" or ".join(["a file of recipes/ without .py", *actions]))
        self.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="arguments of the recipe")

    def flag(self, name: str, **options) -> None:
        self.add_argument(name, *{f"--{name[2:].replace('_', '-')}"} - {name}, **options)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """Raise `UserError` for an unknown flag, recipe or action."""
        args = self.parse_args(argv)
        known = [*self.actions, *(path.stem for path in (ROOT / "recipes").glob("*.py"))]
        if args.recipe not in known:
            nearest = difflib.get_close_matches(args.recipe, known, n=1)
            raise UserError(f"recipes/ has no {args.recipe}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        return args

    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help lists the flags")


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a launcher's `main` as a program, and exit with its code; a `UserError` is printed, with exit code 2."""
    try:
        sys.exit(main(None))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(NOT_STARTED)
    except KeyboardInterrupt:
        sys.exit(NO_LONGER_FOLLOWED)


def seconds_of(duration: str) -> int:
    """Seconds of "90s", "30m", "12h" or "2d"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if match is None:
        raise UserError(f"--timeout takes a number with s, m, h or d, such as 90m, got {duration!r}")
    return int(float(match[1]) * SECONDS[match[2]])


def timeout_of(words: list[str]) -> str:
    """Time limit that fits a recipe's command line: an hour for quick.yaml, else half a day."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="")
    return "1h" if Path(parser.parse_known_args(words)[0].config).stem == "quick" else "12h"


def show(*lines: str | list[str]) -> None:
    """Print commands to run by hand; a list of words is quoted."""
    for line in lines:
        print(shlex.join(line) if isinstance(line, list) else line)


def as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
