"""Folders that one run at a time may write to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hf_components.runtime.errors import UserError


@contextlib.contextmanager
def alone_in(folder: Path, flag: str) -> Iterator[None]:
    """Make the folder if it is not there, and keep other runs out of it. The lock ends with its process, however that
    ends.

    Args:
        flag: by which the user chose the place, for messages.
    Raises:
        UserError: it cannot be made, or another run is writing to it.
    """
    file = folder.with_name(f".{folder.name.lstrip('.')}.lock")
    lock = FileLock(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"another run is writing to {folder}; wait for it, or choose another {flag}") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}; choose another {flag}") from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile tries again
        lock.release()
