"""Errors that a user can fix, and helpers for messages. Recipes print a `UserError` without a traceback."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

OF_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback")


class UserError(ValueError):
    """Wrong input. The message, of one line, gives the name, the rule, the value, and what to do.

    Args:
        details: lines that are shown below the message, such as the end of a log.
    """

    def __init__(self, message: str, *more: Any, details: str = ""):
        if OF_WORKER.match(message):  # torch puts the traceback of a worker process into the message
            message = message.strip().rpartition("\n")[2].partition(": ")[2]
        super().__init__(message, *more)
        self.details = details


class NothingToTrainOnError(UserError):
    """The data chosen for training hold no recording."""


def first_few(values: Sequence[Any], most: int = 5) -> str:
    """["a", "b", "c"] -> "a, b and 1 more", if `most` is 2."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, its cause, the cause of its cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
