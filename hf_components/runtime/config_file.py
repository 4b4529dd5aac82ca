"""The configuration file of a recipe: YAML or JSON whose values are read as they are typed."""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from hf_components.runtime.errors import UserError


def read_config_file(path: Path, mappings: Collection[str]) -> Iterator[tuple[Any, Any]]:
    """The keys and values of a YAML or JSON file, without its sections.

    A mapping is a section unless a flag of that name takes a mapping. So a section may be called `model` or `data`,
    although there are flags of these names.

    Args:
        mappings: names of the flags that take a mapping.
    Raises:
        UserError: the file cannot be read, is no such file, or gives a key twice.
    """
    section_of: dict[Any, Any] = {}
    for section, keys in _values_of_file(path).items():
        for key, value in keys.items() if isinstance(keys, dict) and section not in mappings else [(section, keys)]:
            if key in section_of:
                raise UserError(
                    f"{path}: {key!r} is given twice, under {section_of[key]!r} and {section!r}; leave one out"
                )
            section_of[key] = section
            yield key, value


def words_of_value(flag: str, value: Any, is_switch: bool, where: str) -> list[str]:
    """A flag and its value as on a command line."""
    if isinstance(value, dict):
        return [flag, json.dumps(_typed(value))]
    if isinstance(value, list):
        if wrong := [one for one in value if one is None or isinstance(one, list | dict)]:
            raise UserError(f"{where} must be a list of words or numbers, got {wrong[0]!r} in it")
        return [flag, *map(_word, value)]
    if is_switch:
        value = {"on": "true", "off": "false"}.get(str(value).lower(), value)
    return [f"{flag}={_word(value)}"]  # one token, so that a value may start with a dash


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _values_of_file(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a byte order mark in front
        if path.suffix == ".json":
            values = json.loads(text, parse_float=_Plain, parse_int=_Plain, object_pairs_hook=_object)
        else:
            values = yaml.load(text, _AsTyped)
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML or JSON: {error}; save it as UTF-8") from error
    except (yaml.YAMLError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML or JSON: {' '.join(str(error).split())}") from error
    values = {} if values is None else values  # an empty file
    if not isinstance(values, dict):
        raise UserError(f"{path} must map keys to values, got {type(values).__name__}")
    return values


class _Plain(str):
    """A value of a YAML file without quotes."""


class _AsTyped(yaml.SafeLoader):
    """Reads values as they are typed; flags give them their types.

    YAML 1.1 would read the language `no` as False, `12:30` as 750 and the id `0123456` as 42798.
    """


# Null and `<<` keep their meaning.
_AsTyped.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].endswith((":null", ":merge"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _plain(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return _Plain(node.value) if node.style is None else node.value


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[dict]:
    _refuse_twins(str(key.value) for key, _ in node.value)
    yield from loader.construct_yaml_map(node)


def _object(pairs: list[tuple[str, Any]]) -> dict:
    _refuse_twins(key for key, _ in pairs)
    return dict(pairs)


def _refuse_twins(keys: Iterable[str]) -> None:
    """Raise YAMLError for a key that is given twice; YAML and JSON would silently take the last one."""
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise yaml.YAMLError(f"{key!r} is given twice; leave one out")
        seen.add(key)


_AsTyped.add_constructor("tag:yaml.org,2002:str", _plain)
_AsTyped.add_constructor("tag:yaml.org,2002:map", _mapping)


def _typed(value: Any) -> Any:
    """A mapping with numbers, true and false as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    if not isinstance(value, _Plain):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(value)
    return str(value)
