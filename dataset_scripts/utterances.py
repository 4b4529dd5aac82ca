"""Turn an utterance of a manifest into a row of the prepared corpus, or into the reason why it cannot be one."""

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hf_components.runtime import (
    PHONETIC,
    broken_link,
    fingerprint,
    first_few,
    is_foreign_link,
    is_utf8,
    leads_out,
    looks_like,
    printable,
    same_path,
    spelled_otherwise,
)
from hf_components.speech import SAMPLING_RATE, AudioError, decode, encode_flac

SEVERAL_FOLDERS = "in several folders, all copies alike; the first is taken"
IN_MILLISECONDS = "of a duration that the manifest gives in milliseconds; the recording's own, in seconds, is kept"
LONGEST_ROW = 3 * 3600.0  # seconds of one row; longer recordings are for recipes/segment_audio.py
SILENT = "silent from start to end; leave them out, unless nobody speaks there either"
TOO_LOUD = "louder than full scale, as float samples may be, and are clipped; save them again at a lower level"
LARGEST_SILENCE = 2 / 32768  # between the samples of a silent recording: the last bit of 16, up and down
LOUDEST = 1.5  # of full scale; decoders and resamplers overshoot by less
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
OTHER_DURATION = "of another duration than the manifest says; the recording's own is kept"


@dataclasses.dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest, before its audio is read.

    Attributes:
        file: path as the manifest gives it; `Reader.read` checks it.
        raw_text: transcript as given, None if there is none; `text` is its clean form.
        columns: columns that only this source has.
        md5, duration: hexadecimal checksum and seconds of the recording, where the manifest gives them.
        manifest, line: place of the row, in a source with one manifest for all speakers.
    """

    id: str
    file: str
    text: str
    raw_text: str | None
    speaker_id: str
    group: str
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    md5: str | None = None
    duration: float | None = None
    manifest: str | None = None
    line: int | None = None


class Rejection(Exception):
    """Why an utterance cannot be a row: `reason` names the kind, for counting; `detail` describes the case."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def row(
        self, utterance_id: str, file: str, split: str | None, manifest: str | None = None, line: int | None = None
    ) -> dict[str, Any]:
        """The row of `rejected.jsonl`; a name that is not UTF-8 is written with escapes."""
        where = {} if line is None else {"manifest": manifest, "line": line}
        return {
            "id": printable(utterance_id),
            "file": printable(file),
            "reason": self.reason,
            "detail": self.detail,
            "split": split,
            **where,
        }


@dataclasses.dataclass(frozen=True)
class Reader:
    """Finds, checks and reads recordings.

    Attributes:
        folders: folders to search: the name of each in `source_file`, and its resolved path. Neither the text of a
            manifest nor a link to a single file may lead out of them, see `is_foreign_link`.
        by_bare_name: if a file is in no folder by its path, look for its name directly in each folder.
        shared_names: file names in which several paths of the manifest end; there only a checksum shows which
            recording a bare name means.
        min_duration: seconds.
        require_text: reject utterances without a transcript, in words or in IPA.
        follows_links: nobody's manifest names the files, so links to files elsewhere are the user's own.
    """

    folders: tuple[tuple[str, Path], ...]
    by_bare_name: bool = False
    shared_names: frozenset[str] = frozenset()
    min_duration: float = 0.0
    require_text: bool = True
    follows_links: bool = False

    def read(self, utterance: Utterance) -> tuple[dict, list[str]]:
        """The row of the prepared corpus, with audio as 16 kHz mono 16-bit FLAC, and remarks on what is odd about it.

        Raises:
            Rejection: the path leads out of the folders, the file is missing, copies differ, there is no transcript,
                the checksum differs, or the audio cannot be used.
        """
        files = self._locate(utterance.file, utterance.md5)
        requires_words = self.require_text and not utterance.columns.get(PHONETIC)
        if requires_words and utterance.raw_text is None:
            raise Rejection("missing transcript", "the manifest gives none")
        if requires_words and not utterance.text:
            raise Rejection("empty transcript", f"no word is left of {utterance.raw_text!r}")
        try:
            source_file, content = _read_one_of(files, utterance.md5)
            waveform = decode(content, longest=LONGEST_ROW)
        except AudioError as error:
            raise Rejection(error.reason, error.detail) from error
        except OSError as error:
            raise Rejection("unreadable audio", error.strerror) from error
        duration = len(waveform) / SAMPLING_RATE
        if duration < self.min_duration:
            raise Rejection("too short", f"{duration:.3f} s, min_duration is {self.min_duration}")
        remarks = [SEVERAL_FOLDERS] if len(files) > 1 else []
        if np.ptp(waveform) <= LARGEST_SILENCE:
            remarks.append(SILENT)
        if np.abs(waveform).max() > LOUDEST:
            remarks.append(TOO_LOUD)
        if utterance.duration is not None and not _is_about(utterance.duration, duration):
            remarks.append(IN_MILLISECONDS if _is_about(utterance.duration / 1000, duration) else OTHER_DURATION)
        return {
            "id": utterance.id,
            # No path: `datasets` would prefer a file of that name in the current directory to the bytes.
            "audio": {"bytes": encode_flac(waveform), "path": None},
            "text": utterance.text,
            "raw_text": utterance.raw_text,
            "speaker_id": utterance.speaker_id,
            "group": utterance.group,
            "duration": duration,
            "source_file": source_file,
            **utterance.columns,
        }, remarks

    def find(self, file: str, md5: str | None) -> bytes:
        """Content of the recording that a manifest calls `file`, with the checksum `md5` if one is given.

        Raises:
            Rejection: the same as in `read`.
        """
        try:
            return _read_one_of(self._locate(file, md5), md5)[1]
        except OSError as error:
            raise Rejection("unreadable audio", error.strerror) from error

    def path(self, file: str) -> Path:
        """Path of the recording that a manifest calls `file`; the first if there are several.

        Raises:
            Rejection: the path leads out of the folders, or the file is missing.
        """
        return next(iter(self._locate(file, None)))

    def fingerprint(self, file: str) -> str | None:
        """A string that changes with the recordings that `file` may mean; None if there is none."""
        try:
            return ",".join(map(fingerprint, self._candidates(file)[0])) or None  # of what a link leads to
        except Rejection:
            return None

    def _locate(self, file: str, md5: str | None) -> dict[Path, str]:
        """Path of each file that `file` may mean, with its path in the corpus; a file counts once."""
        found, by_path = self._candidates(file)
        name = _name(file)
        problem = f"no file at {file}"
        if len(self.folders) > 1:
            problem += f" in any of {', '.join(name for name, _ in self.folders)}"
        if not found:
            raise Rejection("missing file", self._why_missing(file) or problem + self._advice(file))
        foreign = [path for path in found if all(is_foreign_link(path, folder) for _, folder in self.folders)]
        if foreign and not self.follows_links:
            raise Rejection(
                "path outside the corpus",
                f"{file} is a link to {printable(foreign[0].readlink())}; copy the recording, or link its folder",
            )
        if not by_path and md5 is None and name in self.shared_names:
            raise Rejection(
                "missing file",
                f"{problem}; {', '.join(found.values())} may be another recording, since several "
                f"paths of the manifest end in {name} and it gives no checksum",
            )
        return found

    def _candidates(self, file: str) -> tuple[dict[Path, str], bool]:
        """Files at that path in any folder, else files with its bare name; and whether the path found them.

        No path may climb, even inside its folder: it could bring a recording of one split into another.
        """
        check_name(file)
        if any(leads_out(form) for form in (file, same_path(file))):
            raise Rejection(
                "path outside the corpus", f"{file} is absolute or climbs by '..'; give it relative to the corpus"
            )
        if (found := self._files_at(file)) or not self.by_bare_name:
            return found, True
        return self._files_at(_name(file)), False

    def _files_at(self, place: str) -> dict[Path, str]:
        """Files at that path in any folder; if there is none, those whose path is spelled in another way."""
        found = [(name, folder, folder / place) for name, folder in self.folders if _is_file(folder / place)] or [
            (name, folder, path)
            for name, folder in self.folders
            for path in spelled_otherwise(folder, place)
            if _is_file(path)
        ]
        by_content: dict[str, tuple[Path, str]] = {}
        for name, folder, path in found:
            place_in_corpus = printable(PurePosixPath(name, path.relative_to(folder)))
            by_content.setdefault(os.path.realpath(path), (path, place_in_corpus))
        return dict(by_content.values())

    def _why_missing(self, file: str) -> str | None:
        """Words for a link to nothing, a folder or an address in the place of the file; None if there is none."""
        for place in (file, _name(file)) if self.by_bare_name else (file,):
            for _, folder in self.folders:
                for path in (folder / place, *spelled_otherwise(folder, place)):
                    if problem := broken_link(folder, str(path.relative_to(folder))):
                        return problem
        if ADDRESS.match(file):
            return f"{file} is an address; download the recording, and give its path in the corpus"
        if file.startswith("~"):
            return f"no file at {file}, where ~ is no home folder; give the path in the corpus"
        if any(_is(Path.is_dir, folder / file) for _, folder in self.folders):
            return f"{file} is a folder, and a recording is needed"
        return None

    def _advice(self, file: str) -> str:
        """Files that may be meant."""
        places = (file, _name(file)) if self.by_bare_name else (file,)
        found = {
            str(PurePosixPath(name, printable(path.relative_to(folder))))
            + ("" if is_utf8(str(path)) else " (its name is not UTF-8: rename it, for example with convmv)")
            for place in places
            for name, folder in self.folders
            for path in looks_like(folder, place)
        }
        return f"; did you mean {first_few(sorted(found), 3)}?" if found else ""


def check_name(file: str) -> None:
    """Raise Rejection if the name of a file is not UTF-8: no corpus can hold it."""
    if not is_utf8(file):
        raise Rejection("name is not UTF-8", f"{printable(file)}; rename the file, for example with convmv")


def shared_names(files: Iterable[str]) -> frozenset[str]:
    """File names in which several of these paths end."""
    names = Counter(map(_name, set(files)))
    return frozenset(name for name, count in names.items() if count > 1)


def _read_one_of(files: dict[Path, str], md5: str | None) -> tuple[str, bytes]:
    """Path in the corpus and content of the file with checksum `md5`; without one, all files must be alike."""
    contents: dict[str, tuple[str, bytes]] = {}
    for path, name in files.items():
        content = path.read_bytes()
        contents.setdefault(hashlib.md5(content, usedforsecurity=False).hexdigest(), (name, content))
    if md5 is not None and md5 not in contents:
        found = ", ".join(f"{name} has {digest}" for digest, (name, _) in contents.items())
        raise Rejection("checksum mismatch", f"the manifest says {md5}, {found}")
    if md5 is None and len(contents) > 1:
        names = " and ".join(name for name, _ in contents.values())
        raise Rejection("ambiguous audio", f"{names} differ and the manifest gives no checksum; remove all but one")
    return contents[md5] if md5 is not None else next(iter(contents.values()))


def _name(file: str) -> str:
    """The name at the end of a path, which may have backslashes."""
    return PurePosixPath(file.replace("\\", "/")).name


def _is_about(given: float, seconds: float) -> bool:
    return abs(given - seconds) <= max(0.1, 0.05 * seconds)


def _is_file(path: Path) -> bool:
    return _is(Path.is_file, path)


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    try:
        return what(path)
    except OSError:  # a name longer than the file system allows
        return False
