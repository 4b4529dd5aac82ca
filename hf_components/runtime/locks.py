"""Folders that one run at a time may write to."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hf_components.runtime.errors import UserError

_held: set[int] = set()  # open folders, whose locks would outlive a killed process in the workers that it forked


@contextlib.contextmanager
def alone_in(folder: Path, flag: str) -> Iterator[None]:
    """The folder, made if it is not there, for this run alone; a lock that ends with its process, however that ends.

    Args:
        flag: by which the user chose the place, for messages.
    Raises:
        UserError: it cannot be made, or another run is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}; choose another {flag}") from error
    _held.add(opened)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing to {folder}; wait for it, or choose another {flag}") from error
        yield
    finally:
        if opened in _held:  # else this is a fork
            _held.remove(opened)
            os.close(opened)


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)
