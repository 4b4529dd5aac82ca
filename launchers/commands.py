"""Command line and exit codes that the launchers share."""

import argparse
import difflib
import importlib
import importlib.util
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
ALSO_OF_RECIPES = {"--debug", "--force_restart"}  # flags of launchers that recipes have too
INPUTS = ("--data", "--corpus", "--model", "--data_dir", "--audio_dir", "--manifest", "--train_manifest")
HUB_ID = "openai/whisper-tiny.en"
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
        self.launcher_flags: set[str] = set()
        self.flag("--dry_run", action="store_true", help="print what would be done, and do nothing")
        self.add_argument("recipe", metavar="RECIPE", help=" or ".join(["a file of recipes/ without .py", *actions]))
        self.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="arguments of the recipe")

    def flag(self, name: str, **options) -> None:
        self.launcher_flags.add(name)
        self.add_argument(name, *{f"--{name[2:].replace('_', '-')}"} - {name}, **options)

    def parse(self, argv: list[str] | None) -> argparse.Namespace:
        """Raise `UserError` for an unknown flag, recipe or action."""
        args = self.parse_args(argv)
        known = [*self.actions, *(path.stem for path in (ROOT / "recipes").glob("*.py"))]
        if args.recipe not in known:
            nearest = difflib.get_close_matches(args.recipe, known, n=1)
            raise UserError(f"recipes/ has no {args.recipe}" + (f"; did you mean {nearest[0]}?" if nearest else ""))
        if args.recipe not in self.actions:
            for word in args.words:
                name = spelled(word)
                if name in self.launcher_flags - ALSO_OF_RECIPES:
                    raise UserError(f"{name} is a flag of the launcher: write it in front of {args.recipe}")
        return args

    def error(self, message: str) -> None:
        raise UserError(f"{message}; --help lists the flags")


def spelled(word: str) -> str:
    """The name of a flag in the spelling with underscores; other words as they are."""
    return "--" + word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else word


def values_of(words: list[str]) -> dict[str, str]:
    """Flag -> its first value, on a command line, over those in its configuration in recipes/.

    Raises:
        UserError: the configuration is not one that is sent with the recipes.
    """
    given: dict[str, str] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=False):
        if word.startswith("--"):
            given[spelled(word)] = word.partition("=")[2] if "=" in word else after
    config = given.get("--config")
    if config is None:
        return given
    file = (ROOT / config).resolve()
    if not file.is_relative_to(ROOT / "recipes") or not file.is_file() or Path(config).is_absolute():
        raise UserError(f"--config {config}: only files in recipes/ are sent; put it into recipes/configs/")
    in_file = re.findall(r"^ *(\w+): *([^#\s]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"--{name}": value for name, value in in_file} | given


def check_remote(recipe: str, words: list[str], *, folders: Collection[str], advice: str) -> None:
    """Find here what a machine that is paid for would else find: wrong flags, and paths that it does not have.

    Flags are checked where the recipes can be imported; a launcher runs in any Python.

    Args:
        folders: folders of the other machine that outlive a run, such as /data; and runs, if it keeps that.
        advice: how a folder of this machine gets there.
    Raises:
        UserError: the other machine would refuse the command.
    """
    for name, value in values_of(words).items():
        if name not in INPUTS and not name.endswith("_model"):
            continue
        if any(value == folder or value.startswith(f"{folder}/") for folder in folders):
            continue
        if value.startswith("models/"):
            raise UserError(f"{name} {value} is made on this machine only; give a Hub id, such as {HUB_ID}")
        if value.startswith(("/", ".", "~")) or value.count("/") > 1 or (ROOT / value).exists():
            raise UserError(f"{name} {value} will not be there: {advice}, or give a Hub id")
    if importlib.util.find_spec("transformers") is None:
        return
    from hf_components.runtime.arguments import check_words
    from hf_components.runtime.errors import UserError as Refused

    module = importlib.import_module(f"recipes.{recipe}")
    try:
        check_words(getattr(module, "ARGUMENTS", None) or module.Arguments, words)
    except Refused as error:
        raise UserError(str(error)) from error


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
