"""Atomic writing of files, and what to say of a disk that is full or may not be written."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from hf_components.runtime.errors import UserError, causes
from hf_components.runtime.records import file_digest

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full disk, full quota, limit on the file size
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)  # read-only disk, rights of a file or folder
NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP)  # what some network disks answer when a folder is to be flushed
PARTIAL = ".partial"  # end of the name of an unfinished stage's folder
WRITTEN = ".written"  # notes in it: a line of path and SHA-256 for each file
NOT_NOTED = ("started.json", "stage.json", WRITTEN)  # the first two are sealed
NUMBERS = "|".join(map(str, NO_SPACE))
# Messages of safetensors, of an `OSError` from another process, of torch (two) and of numpy. Those of torch and numpy
# appear for any file that was not completely written.
IN_WORDS = re.compile(
    rf"\(os error ({NUMBERS})\)|\[Errno ({NUMBERS})\]|unexpected pos \d+ vs|iostream error|"
    r"requested and \d+ written"
)
OF_COPY = re.compile(r"\[Errno (\d+)\] ([\w -]+): '([^']*)'")
OF_RIGHTS = "make its disk and folder writable for this user, or choose another, then run the same command again"


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `file` at the end: readers see the old file or the new one, never half.

    A link stays a link, and the file that it names is replaced. After an error the temporary file is deleted, so that
    it does not fill the disk. The digest of a file of an unfinished stage is noted, for the run that may go on.
    """
    if file.is_symlink():
        file = Path(os.path.realpath(file))
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        if file.exists():  # written by a library, perhaps; a run that is killed now leaves that
            _note({file: file})
        _note({file: temporary})
        temporary.replace(file)
        sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def note_written(folder: Path) -> None:
    """Note the digests of a folder's files, see `atomic_write`. Call it when they are not written again."""
    _note({path: path for path in folder.rglob("*") if path.is_file()})


def _note(written: Mapping[Path, Path]) -> None:
    """Add digests to the notes of the outermost unfinished stage, by the path that the content has or is to have."""
    for file, content in written.items():
        around = [folder for folder in file.parents if folder.name.startswith(".") and folder.name.endswith(PARTIAL)]
        if around and file.name not in NOT_NOTED:
            with (around[-1] / WRITTEN).open("a", encoding="utf-8") as notes:
                notes.write(json.dumps([file.relative_to(around[-1]).as_posix(), file_digest(content)]) + "\n")
                notes.flush()
                os.fsync(notes.fileno())  # before the content is there, which would be another one than was noted


def written_files(folder: Path) -> dict[str, set[str]]:
    """The digests that were noted of each file of an unfinished stage, by path; the file has one of them, or is gone.

    A note that is damaged itself, or was lost in a power cut, is passed over.
    """
    found: dict[str, set[str]] = {}
    notes = folder / WRITTEN
    for line in notes.read_bytes().split(b"\n") if notes.exists() else ():
        with contextlib.suppress(ValueError):
            place, digest = json.loads(line)
            found.setdefault(place, set()).add(digest)
    return found


def sync_folder(folder: Path) -> None:
    """Flush a folder and all below it to the disk, so that a power cut or a full disk cannot take it away later."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_file() or path.is_dir():
            sync(path)


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to the disk.

    A file that was flushed is lost in a power cut all the same if its folder was not: the disk does not know its name.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if not (path.is_dir() and error.errno in NOT_FOR_FOLDERS):
            raise
    finally:
        os.close(opened)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that a power cut cannot take them away."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync(path.parent)


@contextlib.contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """If the disk is full or read-only while `path` is written, raise a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = want_of_space(error)
        if reason is None and (denied := want_of_rights(error, path.parent)) is not None:
            raise UserError(f"{path} could not be written ({denied}); {OF_RIGHTS}") from error
        if reason is None:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise UserError(
            f"{path} could not be written ({reason}); its disk has {free:.0f} MiB left: free some space, or raise the "
            "quota or the limit on file sizes, then run the same command again, which continues"
        ) from error


def refusal(error: BaseException) -> str | None:
    """What to tell the user if the disk is full or may not be written, wherever that was; None for another error."""
    if reason := want_of_space(error):
        named = (cause.filename for cause in causes(error) if isinstance(cause, OSError) and cause.filename)
        place = next(named, "a file")
        return f"{place} could not be written ({reason}); free some space, then run the same command again"
    denied = want_of_rights(error, Path("/"))
    return f"{denied}; {OF_RIGHTS}" if denied else None


def want_of_rights(error: BaseException, folder: Path) -> str | None:
    """Words for the error if a file in `folder` or below may not be written, or not even opened; else None."""
    for cause in causes(error):
        if isinstance(cause, shutil.Error):  # of `copytree`: source, target and words for each file
            cause = next((OSError(int(found[1]), found[2], found[3]) for found in OF_COPY.finditer(str(cause))), cause)
        if isinstance(cause, OSError) and cause.errno in NO_RIGHT and cause.filename is not None:
            place = Path(os.fsdecode(cause.filename)).absolute()
            if place.is_relative_to(folder.absolute()):
                return f"{cause.strerror}: {place}"
    return None


def want_of_space(error: BaseException) -> str | None:
    """Words for the error if the disk, the quota or the limit on file sizes is used up; else None."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            return str(cause)
        if found := IN_WORDS.search(str(cause)):
            number = found[1] or found[2]
            return os.strerror(int(number)) if number else "a file was cut short"
    return None
