"""Sentences of one person: from the rows of a corpus, or from a folder with `sentences.txt` and recordings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from hf_components.runtime import UserError, files_below, first_few, natural_order, printable, same_path
from hf_components.speech import SAMPLING_RATE, SOUND_SUFFIXES, AudioError, decode, plain_text

LIST = "sentences.txt"


@dataclass(frozen=True)
class Sentence:
    """A recorded sentence.

    Args:
        id: id of the utterance, or name of the file.
        waveform: float32 `(samples,)` at 16 kHz.
        text: what was said; None if nobody wrote it down.
    """

    id: str
    waveform: np.ndarray
    text: str | None

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLING_RATE


def sentences_of_rows(rows: datasets.Dataset) -> list[Sentence]:
    """The sentences in rows of a prepared corpus, audio not decoded.

    Raises:
        UserError: a recording cannot be read.
    """
    return [
        Sentence(row["id"], _read(row["audio"]["bytes"] or row["audio"]["path"], row["id"]), row["text"])
        for row in rows
    ]


def sentences_of_folder(folder: str | Path, *, with_texts: bool = True) -> list[Sentence]:
    """The sentences of one person: `sentences.txt` with one sentence per line, and as many recordings.

    A line is the text of a recording, in the order of the file names, where 2.wav is before 10.wav. Or it starts with
    the name of the recording, with or without its suffix, and a tab: then the order does not matter.

    Args:
        with_texts: whether `sentences.txt` is needed; else the recordings are taken without text.
    Raises:
        UserError: the folder or its list is missing, the numbers differ, a recording is named twice or is not there,
            or one cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with {LIST} and a recording of each sentence")
    recordings = sorted(
        (path for path in files_below(folder) if path.suffix.lower() in SOUND_SUFFIXES), key=natural_order
    )
    if not recordings:
        raise UserError(f"{folder} holds no recording; sound files end in .wav, .flac, .mp3, .ogg, .m4a and the like")
    texts = _texts_of(folder / LIST, recordings) if with_texts else dict.fromkeys(recordings)
    return [
        Sentence(printable(path.relative_to(folder)), _read(path, path), None if text is None else plain_text(text))
        for path, text in texts.items()
    ]


def is_folder_of_one(data: str | Path) -> bool:
    """Whether `data` is a folder with `sentences.txt`."""
    return (Path(data) / LIST).is_file()


def _texts_of(file: Path, recordings: Sequence[Path]) -> dict[Path, str]:
    if not file.exists():
        raise UserError(f"{file} is missing: it holds one sentence per line, in the order of the recordings")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8: {error}; save it as text in UTF-8") from error
    lines = [line for line in lines if line]
    if any("\t" in line for line in lines):
        return _named(file, lines, recordings)
    if len(lines) != len(recordings):
        names = first_few([path.name for path in recordings])
        raise UserError(
            f"{file} has {len(lines)} sentences for {len(recordings)} recordings ({names}); each recording needs its "
            "line, or start each line with the name of its recording and a tab"
        )
    return dict(zip(recordings, lines, strict=True))


def _named(file: Path, lines: Sequence[str], recordings: Sequence[Path]) -> dict[Path, str]:
    by_name: dict[str, list[Path]] = {}
    for path in recordings:
        inside = path.relative_to(file.parent)
        for name in {same_path(printable(form)) for form in (inside, inside.with_suffix(""), path.name, path.stem)}:
            by_name.setdefault(name, []).append(path)
    texts: dict[Path, str] = {}
    for number, line in enumerate(lines, start=1):
        if "\t" not in line:
            raise UserError(
                f"{file}, line {number}: no tab is between the name of the recording and its text, as in other lines"
            )
        name, text = (part.strip() for part in line.split("\t", 1))
        found = by_name.get(same_path(name), [])
        if not found:
            there = first_few([path.name for path in recordings])
            raise UserError(f"{file}, line {number}: there is no recording {name!r}; there are {there}")
        if len(found) > 1:
            several = first_few([str(path.relative_to(file.parent)) for path in found])
            raise UserError(f"{file}, line {number}: {name!r} may be {several}; write which one")
        if found[0] in texts:
            raise UserError(f"{file}, line {number}: {name!r} was named before; leave one of the lines out")
        texts[found[0]] = text
    return texts


def _read(source: bytes | str | Path, name: str | Path) -> np.ndarray:
    try:
        return decode(source)
    except AudioError as error:
        raise UserError(f"{name} cannot be read: {error.detail}; record it again, or leave it out") from error
