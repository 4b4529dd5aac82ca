"""Silence about clusterings that are only tried."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def only_errors() -> Iterator[None]:
    """This package logs errors alone: a warning about a clustering that is thrown away would mislead."""
    logger = logging.getLogger(__package__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
