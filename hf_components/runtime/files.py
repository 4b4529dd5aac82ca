"""Files below a folder, and files that a manifest names: links are followed, names may be spelled in other ways."""

import contextlib
import difflib
import functools
import hashlib
import html
import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_components.runtime.errors import UserError, first_few

logger = logging.getLogger(__name__)

# Encodings of archives that were packed on Windows, DOS and the Mac of the nineties.
OLD_ENCODINGS = ("cp1252", "cp437", "mac_roman", "shift_jis", "gbk")
OUR_FOLDERS = ("models/", "data/", "runs/")  # that the Makefile fills: no names of users of the Hub
JOINERS = "\u200c\u200d"  # shape letters of Persian, Hindi and others
LONGEST_NAME = 200  # bytes of a name that `place_for` keeps; file systems allow 255, and a suffix comes on top
SHORTENED = 180  # bytes that it leaves of a longer one; a digest comes on top
LONGEST_PLACE = 1000  # bytes of its path; systems allow 1024 and more


def files_below(folder: str | Path, hidden: bool = False) -> Iterator[Path]:
    """Every file below `folder`, in no order, also behind links to folders; links to nothing are among them.

    A link to a folder in which it lies itself is not entered. A folder that cannot be read is left out with a warning.

    Args:
        hidden: also files and folders whose name begins with a dot, such as the objects in `.git/annex`.
    """
    chains = {str(folder): (os.path.realpath(folder),)}  # real paths of a folder and of the folders on the way to it
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_warn):
        chain = chains.pop(place)
        entered = []
        for name in folders:
            path = os.path.join(place, name)  # noqa: PTH118  (`os.walk` joins in the same way)
            real = os.path.realpath(path)
            is_loop = any(above == real or above.startswith(real.rstrip("/") + "/") for above in chain)
            if (hidden or not name.startswith(".")) and not is_loop:
                entered.append(name)
                chains[path] = (*chain, real)
        folders[:] = entered
        yield from (Path(place, name) for name in names if hidden or not name.startswith("."))


def require_there(name: str | Path, advice: str = "give a folder that exists, or a Hub id") -> None:
    """Raise UserError if `name` is neither on this disk nor of a form that a repository of the Hub can have.

    So a path that is not there is never passed to the Hub, which would only speak of the form of its ids.
    """
    path = Path(name).expanduser()
    try:
        if path.exists():
            return
        validate_repo_id(str(name))
        if not str(name).startswith(OUR_FOLDERS):
            return
    except HFValidationError:
        pass
    except OSError:  # a name longer than the file system allows
        pass
    raise UserError(f"there is no folder {name}{_nearby(path)}; {advice}")


def _nearby(path: Path) -> str:
    """What there is on the way to a path that does not exist, in words."""
    parents = [parent for parent in path.parents if parent.is_dir()]
    if not parents or parents[0] in (Path("/"), Path()):
        return ""
    missing = path.relative_to(parents[0]).parts[0]
    names = sorted(found.name for found in parents[0].iterdir() if found.is_dir() and not found.name.startswith("."))
    if nearest := difflib.get_close_matches(missing, names, n=1):
        return f"; did you mean {parents[0] / nearest[0]}?"
    return f"; {parents[0]} holds {first_few(names)}" if names else ""


def broken_link(folder: Path, place: str) -> str | None:
    """Words for a link to nothing on the way from `folder` to `place`; None if there is none."""
    path = folder
    for part in PurePosixPath(place).parts:
        path /= part
        try:
            is_broken = path.is_symlink() and not path.exists()
        except OSError:  # a name longer than the file system allows
            return None
        if is_broken:
            return (
                f"{printable(path.relative_to(folder))} is a link to {printable(path.readlink())}, where nothing is: "
                "fetch its content (git annex get, datalad get, git lfs pull), mount its disk, or repair the link"
            )
    return None


def is_foreign_link(path: Path, folder: Path) -> bool:
    """Whether a file below `folder` is a link to a file elsewhere, which whoever made the data may have chosen.

    The stores of git-annex and of the Hub's cache belong to the data, and so does what lies behind linked folders.
    """
    if not path.is_symlink():
        return False
    target = Path(os.path.realpath(path))
    beside = Path(os.path.realpath(path.parent))
    root = Path(os.path.realpath(folder))
    stores = [parent.parent / "blobs" for parent in (beside, *beside.parents) if parent.name == "snapshots"]
    in_annex = ".git" in target.parts and "annex" in target.parts
    return not (in_annex or any(target.is_relative_to(place) for place in (root, beside, *stores)))


def why_unreadable(path: str | Path, error: OSError) -> str:
    """Words for an error in opening `path`: a link to nothing is named as such."""
    path = Path(path)
    return broken_link(path.parent, path.name) or error.strerror or str(error)


def is_stream(path: Path) -> bool:
    """Whether there is a pipe or a device at `path`, such as the `<(command)` of a shell: it is read only once."""
    return path.exists() and not path.is_file() and not path.is_dir()


def printable(path: str | Path) -> str:
    r"""The path as text that every file can hold: bytes that are not UTF-8 become \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def leads_out(place: str) -> bool:
    """Whether a path that data give is no path below a folder: absolute, climbing by `..`, with NUL, or empty."""
    path = PurePosixPath(place)
    is_absolute = path.is_absolute() or PureWindowsPath(place).is_absolute() or bool(PureWindowsPath(place).drive)
    return not path.parts or "\0" in place or is_absolute or ".." in re.split(r"[/\\]", place)


def place_for(name: str) -> str:
    """The path below an output folder for a file that is named by data: an id, or the path of a recording.

    Every file that data name is written by this path. Parts that are no file name (`..`, empty, too long, with
    control characters) are left out or replaced; then a digest of the name follows, so that no two names share a
    path.
    """
    parts = [_file_name(part) for part in name.split("/") if part not in ("", ".", "..")] or ["unnamed"]
    place = "/".join(parts)
    if len(place.encode()) > LONGEST_PLACE:
        place = parts[-1]
    if place == name:
        return place
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    # Before the suffix, which callers may replace.
    path = PurePosixPath(place)
    return str(path.with_name(f"{path.stem}-{digest}{path.suffix}"))


def _file_name(part: str) -> str:
    """A part of a path without characters that `visible` escapes, and not too long."""
    kept = "".join("_" if is_invisible(c) else c for c in part)
    if len(kept.encode()) > LONGEST_NAME:
        kept = kept.encode()[:SHORTENED].decode(errors="ignore")
    return kept


def is_invisible(character: str) -> bool:
    """Whether a character moves the cursor, turns the direction, or cannot be seen; joiners within words are none."""
    category = unicodedata.category(character)
    return category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in JOINERS)


def visible(text: object, keep: str = "") -> str:
    r"""Text for terminals, logs and tables: an escape character becomes \x1b, a line end \n, U+202E \u202e.

    Args:
        keep: characters that are not escaped.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if is_invisible(c) and c not in keep else c for c in text)


def is_utf8(name: str) -> bool:
    """Whether the name of a file is UTF-8; Python puts half surrogate pairs for other bytes."""
    return printable(name) == name


def same_path(path: str) -> str:
    """A key that is equal for spellings of one path: composed or decomposed letters, `%20`, backslashes, `./`."""
    return str(PurePosixPath(unicodedata.normalize("NFC", unquote(path).strip()).replace("\\", "/")))


def natural_order(path: str | Path) -> list[tuple[int, int, str]]:
    """A key that sorts paths as people count: `2.wav` before `10.wav`."""
    words = re.split(r"([0-9]+)", str(path))
    return [(0, int(word), word) if word.isdecimal() else (1, 0, word) for word in words if word]


def spelled_otherwise(folder: Path, place: str) -> list[Path]:
    """The files below `folder` whose path has the same `same_path` as `place`."""
    return [path for path in _matching(folder, place, alike=False) if path.is_file() or path.is_symlink()]


def looks_like(folder: Path, place: str) -> list[Path]:
    """The files below `folder` that `place` may mean: other case, accents, suffix, or name that is not UTF-8."""
    return [path for path in _matching(folder, place, alike=True) if path.is_file()]


def _matching(folder: Path, place: str, alike: bool) -> list[Path]:
    found = [folder]
    for part in PurePosixPath(same_path(place)).parts:
        keys = _keys(part, alike)
        found = list(
            dict.fromkeys(at / name for at in found for key in keys for name in _listing(at, alike).get(key, ()))
        )
    return found


def _listing(folder: Path, alike: bool) -> dict[str, list[str]]:
    try:
        changed = folder.stat().st_mtime_ns
        return _names_by_key(str(folder), changed, alike)
    except OSError:  # no folder, or one that may not be read
        return {}


@functools.lru_cache(maxsize=256)
def _names_by_key(folder: str, changed: int, alike: bool) -> dict[str, list[str]]:
    """Names in a folder by their keys; `changed` is the time of its last change, so that a new file is found."""
    by_key: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208  (a large folder, and only its names are needed)
        for key in _keys(name, alike):
            by_key.setdefault(key, []).append(name)
    return by_key


def _keys(name: str, alike: bool) -> list[str]:
    if not alike:
        return [same_path(name)] if is_utf8(name) else []
    readings = _readings(name)
    keys = [_bare(reading) for reading in readings]
    return list(dict.fromkeys([*keys, *(stem for key in keys if (stem := re.sub(r"(?<=.)\.\w{1,5}$", "", key)))]))


def _readings(name: str) -> list[str]:
    """What a name may have been before it was written in another encoding, or read in one."""
    if not is_utf8(name):
        return [os.fsencode(name).decode(encoding, "replace") for encoding in OLD_ENCODINGS]
    readings = [name, html.unescape(name)]
    for encoding in OLD_ENCODINGS if not name.isascii() else ():
        with contextlib.suppress(UnicodeError):
            readings.append(name.encode(encoding).decode("utf-8"))
    return readings


def _bare(name: str) -> str:
    """The name without case, accents, invisible characters, and spaces or what people put for them."""
    decomposed = unicodedata.normalize("NFKD", same_path(name)).casefold()
    kept = (character for character in decomposed if unicodedata.category(character)[0] not in "MC")
    return re.sub(r"[\s_+-]+", "_", "".join(kept))


def _warn(error: OSError) -> None:
    logger.warning("%s cannot be read (%s); what is in it is left out", error.filename, error.strerror)
