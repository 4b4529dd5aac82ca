"""Locks: only one run at a time may write to a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hf_components.runtime.disk import make_folder
from hf_components.runtime.errors import UserError


@contextlib.contextmanager
def alone_in(folder: Path, flag: str) -> Iterator[None]:
    """Create the folder if it is missing, and keep other runs out of it. The lock ends with the process in any case.

    Args:
        flag: flag that chose the folder, for messages.
    Raises:
        UserError: the folder cannot be created, or another run is writing to it.
    """
    file = folder.with_name(f".{folder.name.lstrip('.')}.lock")
    lock = FileLock(file)
    try:
        make_folder(folder)
        lock.acquire(blocking=False)
        folder.mkdir(exist_ok=True)  # again: the run before may have renamed it before it gave up the lock
    except Timeout as error:
        raise UserError(f"another run is writing to {folder}; wait for it, or choose another {flag}") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}; choose another {flag}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the disk is read-only by now; the lock itself ends with the release
            file.unlink()  # before the release: a process that has opened the file must try again
        lock.release()
