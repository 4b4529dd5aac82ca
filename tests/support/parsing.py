"""Arguments as a command line gives them, whose bounds and choices the parser checks."""

from typing import Any

from hf_components.runtime.arguments import parse_arguments


def parse(kind: type, **options: Any) -> Any:
    """The instance of a dataclass of flags that `--NAME=VALUE` gives for every option; a list takes several words."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return parse_arguments([kind], words)[0]
