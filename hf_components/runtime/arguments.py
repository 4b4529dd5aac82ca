"""Configuration: dataclasses filled from `--config FILE` (YAML or JSON), overridden by the command line."""

import argparse
import copy
import dataclasses
import difflib
import functools
import inspect
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hf_components.runtime.config_file import read_config_file, words_of_value
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import BOUNDS, bounded, in_words, reader, unmet, ways_of
from hf_components.runtime.help_page import HelpFormatter, format_help
from hf_components.runtime.logs import set_up_logging
from hf_components.runtime.processes import join_processes
from hf_components.runtime.recipe_arguments import ResumeArguments
from hf_components.runtime.reflexes import ANSWERS, NO_VALUES, SYNONYMS, UNNEEDED

logger = logging.getLogger(__name__)


class _Parser(HfArgumentParser):
    config_file: str | None = None
    only_in_file: Collection[str] = ()  # names of flags whose values come from that file

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        is_negation = options.get("action") == "store_false"
        if is_negation:
            options["help"] = argparse.SUPPRESS  # it stands beside the flag itself
        bounds = {name: options.pop(name) for name in BOUNDS if name in options}
        if options.get("type") in (int, float):
            options["type"] = bounded(options["type"], bounds)
        if read := options.pop("read", None):
            options["type"] = reader(read)
        needs = options.pop("needs", None)
        if bounds:
            options["help"] = f"{options['help'].rstrip('.')}; {in_words(bounds)}"
        action = super().add_argument(*names, **options)
        action.needs = needs
        if is_negation:
            self._option_string_actions[f"--{action.dest}"].negation = names[0]
        return action

    def format_help(self) -> str:
        return format_help(self, self.dataclass_types)

    def error(self, message: str) -> None:
        # argparse lists every spelling of a flag: argument --num_experts/--num-experts: must ...
        message = re.sub(r"^argument (--\w+)\S*: must", r"\1 must", message)
        named = re.search(r"--(\w+)", message)
        raise UserError(f"{self.config_file}: {message}" if named and named[1] in self.only_in_file else message)


# What a dataclass raises that refuses values, or a combination of them. Those of transformers open files and packages.
UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, OSError, ImportError, RuntimeError)
ALMOST_THE_SAME = 0.8  # of 1, as difflib measures it
SMALL_WORDS = {"no", "max", "min", "num", "per", "of", "to", "on", "dir"}  # two flags that share these differ
Elsewhere = Callable[[Sequence[str]], str | None]  # function of an unknown flag's names: where it is one, in words


def parse_arguments(
    dataclass_types: Any,
    argv: list[str] | None = None,
    description: str | None = None,
    leading: str | None = None,
    elsewhere: Elsewhere = lambda names: None,
) -> tuple:
    """Parse `argv` into one instance per dataclass and set up logging.

    The keys of `--config FILE` become flags in front of the command line. So both are converted and checked in the
    same way, and the command line wins. `--num-experts` and `--num_experts` are one flag. The file may group its keys
    in sections (`training:`); the names of sections have no effect.

    Args:
        dataclass_types: dataclass or sequence of dataclasses; every field documents itself by `metadata["help"]`.
        argv: arguments without the program's name; `sys.argv[1:]` if None.
        description: text that `--help` shows, normally the recipe's `__doc__`.
        leading: flag whose value may stand first, without the flag.
        elsewhere: function that says where else an unknown flag is one, such as in the steps of a pipeline.
    Returns:
        the instances, in the order of `dataclass_types`.
    Raises:
        UserError: a flag or key is unknown (the message suggests one), a value is wrong, the file is unreadable.

    A flag that has no effect, since it needs another one, is warned of.
    """
    _stay_on_cpu_without_accelerator()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        join_processes()  # before a dataclass asks for the device, which would set a timeout of half an hour
    argv = sys.argv[1:] if argv is None else argv
    if leading and argv and not argv[0].startswith("-"):
        argv = [f"--{leading}", *argv]
    set_up_logging(_log_file(argv))  # before any mistake is found, which must be in the file too
    parser, from_file, typed, flags = _read_words(dataclass_types, argv, description, elsewhere)
    set_up_logging(_log_file(from_file + typed))
    try:
        *instances, _, unknown = parser.parse_args_into_dataclasses(
            from_file + typed, return_remaining_strings=True, look_for_args_file=False
        )
    except UserError:
        raise
    except UNUSABLE as error:
        raise UserError(_why_unusable(error)) from error
    if unknown:
        raise UserError(_unknown(unknown[0], flags, elsewhere))
    for instance in instances:
        if isinstance(instance, ResumeArguments):
            instance.resume = instance.resume and not instance.force_restart
    values = {name: value for instance in instances for name, value in vars(instance).items()}
    _warn_of_no_effect(values, from_file, typed, flags)
    return tuple(instances)


def parse_own_arguments(kind: type, argv: list[str], description: str | None = None) -> tuple[Any, list[str]]:
    """An instance of one dataclass from its flags in `argv`, and the words that are left for another recipe.

    Raises:
        UserError: a value is wrong, or a required flag is missing.
    """
    parser = _Parser(kind, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    instance, words = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    return instance, words


def check_words(
    dataclass_types: Any, argv: list[str], *, is_complete: bool = False, warn: bool = False
) -> dict[str, Any]:
    """Raise UserError for an unknown flag or a wrong value, as `parse_arguments`; required flags may be missing.

    Args:
        is_complete: whether no value is still unknown, so that values can be compared with each other.
        warn: whether to warn of flags without effect.
    Returns:
        the value of each flag.
    """
    parser, from_file, typed, flags = _read_words(dataclass_types, argv)
    for action in flags.values():
        action.required = False
    parsed, unknown = parser.parse_known_args(from_file + typed)
    if unknown:
        raise UserError(_unknown(unknown[0], flags))
    values = vars(parsed)
    if is_complete:
        for kind in parser.dataclass_types:
            values |= _checked_together(kind, values)
    if warn:
        _warn_of_no_effect(values, from_file, typed, flags)
    return values


def _checked_together(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass after it has looked at its values; none if a required value is still missing."""
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    required = [
        f for f in dataclasses.fields(kind) if f.init and f.default is f.default_factory is dataclasses.MISSING
    ]
    if any(values[field.name] is None for field in required):
        return {}
    try:
        return vars(kind(**{name: copy.deepcopy(values[name]) for name in names}))
    except UNUSABLE as error:
        raise UserError(_why_unusable(error)) from error


def _why_unusable(error: Exception) -> str:
    """A dataclass of ours, or of transformers, says what is wrong; where it only fails, its error is named too."""
    return (
        str(error)
        if isinstance(error, ValueError)
        else f"settings that cannot be used: {type(error).__name__}: {error}"
    )


def _warn_of_no_effect(
    values: Mapping[str, Any], from_file: Sequence[str], typed: Sequence[str], flags: Mapping[str, argparse.Action]
) -> None:
    """Warn of flags that need another flag to have an effect.

    A configuration describes more than one run. So a key of it is warned of only if it differs from the default, and
    if neither the command line nor an input, which differs from run to run, takes its effect.
    """
    on_command_line, in_file = ({flags[name].dest for name in _named(words, flags)} for words in (typed, from_file))
    defaults = {action.dest: action.default for action in flags.values()}
    for action in dict.fromkeys(flags.values()):
        name = action.dest
        if action.needs is None or name not in on_command_line | in_file:
            continue
        deciding = {other for way in ways_of(action.needs) for other in way}
        depends_on_run = deciding & on_command_line or any(defaults.get(other, "") is None for other in deciding)
        if name not in on_command_line and (values[name] == defaults[name] or depends_on_run):
            continue
        if missing := unmet(action.needs, values):
            logger.warning("--%s has no effect %s; leave it out, or change that", name, missing)


def _named(words: Sequence[str], flags: Mapping[str, argparse.Action]) -> Iterator[str]:
    return (name for word in words if (name := word.partition("=")[0]) in flags)


def _log_file(words: Sequence[str]) -> str | None:
    """The value of `--log_file`."""
    parser = _Parser([], add_help=False, allow_abbrev=False)
    parser.add_argument("--log_file", "--log-file")
    return parser.parse_known_args(words)[0].log_file


def given_flags(dataclass_types: Any, argv: list[str]) -> set[str]:
    """The names of the flags on a command line, without those in its configuration file."""
    _, _, typed, flags = _read_words(dataclass_types, argv)
    return {flags[name].dest for name in _named(typed, flags)}


def _read_words(
    dataclass_types: Any,
    argv: Sequence[str],
    description: str | None = None,
    elsewhere: Elsewhere = lambda names: None,
) -> tuple[_Parser, list[str], list[str], dict[str, argparse.Action]]:
    """The parser, the words of the configuration file, those of the command line, and the parser's flags."""
    types = [dataclass_types] if dataclasses.is_dataclass(dataclass_types) else list(dataclass_types)
    parser = _Parser(types, description=description, allow_abbrev=False, formatter_class=HelpFormatter)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or JSON file of values for all these flags; the command line wins"
    )
    config_only = _Parser([], add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    config_file = config_only.parse_known_args(argv)[0].config
    flags = {option: action for action in parser._actions for option in action.option_strings}
    spellings = _spellings(flags)
    advice = functools.partial(_advice, flags=flags, elsewhere=elsewhere)
    from_file = _flags_of_file(Path(config_file), flags, spellings, _mappings(types), advice) if config_file else []
    typed = [_as_we_spell_it(word, spellings) for word in argv]
    parser.config_file = config_file
    in_file, on_command_line = ({flags[name].dest for name in _named(words, flags)} for words in (from_file, typed))
    parser.only_in_file = in_file - on_command_line
    _refuse_values(from_file, flags)
    _refuse_values(typed, flags)
    return parser, from_file, typed, flags


def _refuse_values(words: Sequence[str], flags: Mapping[str, argparse.Action]) -> None:
    """Raise UserError for a value in `NO_VALUES`, if the flag does not take it here."""
    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name not in flags:
            continue
        value = (value if equals else following).lower()
        answer = NO_VALUES.get((flags[name].dest, value))
        if answer is None or value in (flags[name].choices or ()):
            continue
        if text := _filled(answer, flags):
            raise UserError(text)


def _filled(answer: str, flags: Mapping[str, argparse.Action]) -> str | None:
    """The answer with the names of flags; None if one of them is missing."""
    named = re.findall(r"{(\w+)}", answer)
    if any(f"--{other}" not in flags for other in named):
        return None
    return answer.format(**{other: f"--{other}" for other in named})


def parse_pairs(flag: str, words: list[str] | None) -> dict[str, str] | None:
    """The words OURS=THEIRS of a flag as a mapping, or None. Raises UserError for a word without "="."""
    if words is None:
        return None
    if wrong := [word for word in words if "=" not in word]:
        raise UserError(f"{flag} takes OUR_NAME=NAME_IN_FILE, such as child_id=speaker, got {wrong[0]!r}")
    return dict(word.split("=", 1) for word in words)


def _stay_on_cpu_without_accelerator() -> None:
    # `accelerate launch` passes `use_cpu` only if there is one process. Without it, accelerate treats each of several
    # CPU processes as a separate run, and all of them write the same files.
    if "LOCAL_RANK" in os.environ and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"


def _spellings(flags: Mapping[str, argparse.Action]) -> dict[str, str]:
    """Every spelling of a flag, with underscores -> a spelling that the parser knows."""
    known = {option.replace("-", "_"): option for option in flags if option.startswith("--")}
    spellings = {f"--{name.lstrip('_')}": option for name, option in known.items()}
    for typed, ours in SYNONYMS.items():
        if target := next((name for name in ours if f"--{name}" in flags), None):
            spellings.setdefault(f"--{typed}", f"--{target}")
    return spellings


def _as_we_spell_it(word: str, spellings: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    option = spellings.get(f"--{name[2:].replace('-', '_')}") if name.startswith("--") else None
    return word if option is None else option + equals + value


def _mappings(types: Iterable[type]) -> set[str]:
    """Names of the flags that take a mapping. They come from annotations: HfArgumentParser changes `Field.type`."""
    return {
        name
        for kind in types
        for parent in kind.__mro__
        for name, annotation in inspect.get_annotations(parent).items()
        if "dict" in str(annotation)
    }


def _flags_of_file(
    path: Path,
    flags: Mapping[str, argparse.Action],
    spellings: Mapping[str, str],
    mappings: set[str],
    advice: Callable[[str], str],
) -> list[str]:
    words: list[str] = []
    for key, value in read_config_file(path, mappings):
        flag = spellings.get(f"--{key}".replace("-", "_").replace("__", "--", 1))
        if flag is None and key in UNNEEDED:
            logger.warning("%s: the key %s is not needed: %s", path, key, UNNEEDED[key])
        elif flag is None or key in ("config", "help"):
            raise UserError(f"{path}: unknown key {key!r}{advice(f'--{key}')}")
        elif value == [] and flags[flag].nargs == "+":
            flags[flag].default = []
            flags[flag].required = False  # the command line of argparse cannot express an empty list
        elif value is not None:  # an empty value leaves the default
            words += words_of_value(flag, value, flags[flag].type is string_to_bool, f"{path}: {key}")
    return words


def _unknown(word: str, flags: Mapping[str, argparse.Action], elsewhere: Elsewhere = lambda names: None) -> str:
    name = word.split("=")[0]  # without its value, which may be a token
    return f"unknown argument {name!r}{_advice(name, flags, elsewhere)}"


def _advice(typed: str, flags: Mapping[str, argparse.Action], elsewhere: Elsewhere) -> str:
    """What to write instead of an unknown flag: a text of `ANSWERS`, its place elsewhere, or a similar flag."""
    name = typed.lstrip("-").replace("-", "_")
    meant = (name, *SYNONYMS.get(name, ()))
    answers = (answer for one in meant for answer in _several(ANSWERS.get(one, ())))
    if text := next(filter(None, (_filled(answer, flags) for answer in answers)), None) or elsewhere(meant):
        return f": {text}"
    # Suggest --no_plot under its own name, but an alias under the name of its flag.
    names = {
        spelling[2:]: option[2:] if flags[option].nargs == 0 else flags[option].dest
        for spelling, option in _spellings(flags).items()
    }
    name = name.lower()
    similar = difflib.get_close_matches(name, names, n=5, cutoff=0.6)
    match = next((one for one in similar if _looks_meant(name, one, is_flag=f"--{one}" in flags)), None)
    return f"; did you mean --{names[match]}?" if match else "; --help lists the known ones"


def _several(answers: str | tuple[str, ...]) -> tuple[str, ...]:
    return (answers,) if isinstance(answers, str) else answers


def _looks_meant(typed: str, known: str, *, is_flag: bool) -> bool:
    """Whether two similar names are nearly the same, or, if the second is a flag of ours, have a word in common."""
    if known.startswith(typed) or difflib.SequenceMatcher(None, typed, known).ratio() >= ALMOST_THE_SAME:
        return True
    starts = [{word[:4] for word in name.split("_") if word not in SMALL_WORDS} for name in (typed, known)]
    return is_flag and bool(starts[0] & starts[1])
