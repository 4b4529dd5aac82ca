"""The exceptions for mistakes that a user can fix, and what messages are made of.

Recipes print the message of a `UserError` without a traceback.
"""

from collections.abc import Iterator, Sequence
from typing import Any


class UserError(ValueError):
    """Wrong input. The message names the thing, the rule, the value, and what to do."""


class NothingToTrainOnError(UserError):
    """What was chosen for training has no recording in it."""


def first_few(values: Sequence[Any], most: int = 5) -> str:
    """["a", "b", "c"] -> "a, b and 1 more", for `most` of 2."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
