"""Files that are complete or absent, and the message for a user whose disk is full."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hf_components.runtime.errors import UserError, causes

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, limit of file sizes
NUMBERS = "|".join(map(str, NO_SPACE))
# How safetensors says it, and what is left of an `OSError` from another process; torch (twice) and numpy say it of any
# file that they cannot write to its end.
IN_WORDS = re.compile(
    rf"\(os error ({NUMBERS})\)|\[Errno ({NUMBERS})\]|unexpected pos \d+ vs|iostream error|"
    r"requested and \d+ written"
)


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A path to write to. It becomes `file` once it is complete: readers find the old file or the new one.

    A full disk is not filled further by half a file.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as opened:
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Write every file below `folder` to the disk itself, so that a later power cut or full disk cannot halve it."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn an error for want of space while `path` is written into a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _want_of_space(error)
        if reason is None:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise UserError(
            f"{path} could not be written ({reason}); its disk has {free:.0f} MiB left: make room, or raise the "
            "quota or the limit of file sizes, and run the same command with --resume, which goes on from "
            "what is complete"
        ) from error


def _want_of_space(error: BaseException) -> str | None:
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return str(cause)
        if found := IN_WORDS.search(str(cause)):
            number = found[1] or found[2]
            return os.strerror(int(number)) if number else "a file was cut short"
    return None
