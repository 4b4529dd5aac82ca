"""Atomic writing of files, and the error message for a full disk."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from hf_components.runtime.errors import UserError, causes

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full disk, full quota, limit on the file size
NUMBERS = "|".join(map(str, NO_SPACE))
# Messages of safetensors, of an `OSError` from another process, of torch (two) and of numpy. Those of torch and numpy
# appear for any file that was not completely written.
IN_WORDS = re.compile(
    rf"\(os error ({NUMBERS})\)|\[Errno ({NUMBERS})\]|unexpected pos \d+ vs|iostream error|"
    r"requested and \d+ written"
)


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `file` at the end: readers see the old file or the new one, never half.

    A link stays a link, and the file that it names is replaced. After an error the temporary file is deleted, so that
    it does not fill the disk.
    """
    if file.is_symlink():
        file = Path(os.path.realpath(file))
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as opened:
            os.fsync(opened.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush every file below `folder` to the disk, so that a power cut or a full disk cannot truncate it later."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


@contextlib.contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """If the disk is full while `path` is written, raise a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = want_of_space(error)
        if reason is None:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise UserError(
            f"{path} could not be written ({reason}); its disk has {free:.0f} MiB left: free some space, or raise the "
            "quota or the limit on file sizes, then continue the run with the same command and --resume"
        ) from error


def want_of_space(error: BaseException) -> str | None:
    """Words for the error if the disk, the quota or the limit on file sizes is used up; else None."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return str(cause)
        if found := IN_WORDS.search(str(cause)):
            number = found[1] or found[2]
            return os.strerror(int(number)) if number else "a file was cut short"
    return None
