"""Copies of one recording: master and access copy, downloads made twice, the same sound under another name."""

import base64
import filecmp
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import soxr
from scipy.signal import correlate

from hf_components.speech.audio import SAMPLING_RATE

SAME_LENGTH = 0.2  # seconds; an encoder of MP3 adds up to a tenth
RATE = 2000  # Hz of a sound print: every codec keeps what is below half of it
PIECE = 2.0  # seconds of the first and of the last segment in a sound print
MOST_SHIFT = 0.3  # seconds by which the segments of two copies may be shifted
ALIKE = 0.6  # correlation of two copies is above 0.9, of two recordings of one voice below 0.4
NEIGHBOURS = 50  # recordings of nearly the same length that a recording is compared with
COPY_MARK = re.compile(r"^copy of |\s*\(\d+\)$|[\s_-]+copy(\s*\(?\d+\)?)?$", re.IGNORECASE)


def copies_by_name(root: Path, files: Sequence[str], seconds: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of files that are copies as far as names, lengths and bytes tell.

    They have the same bytes; or they have the same length and the same name, but for the suffix, which differs, and
    for a mark such as " (1)" or " - Copy". Folders do not matter.

    Args:
        root: folder of the files.
        files: their paths in it.
        seconds: length of each.
    """
    return [*_same_names(files, seconds), *_same_bytes([root / file for file in files])]


def copies_by_sound(prints: Sequence[str], seconds: Sequence[float]) -> list[tuple[int, int]]:
    """Pairs of recordings of the same length that sound the same.

    Args:
        prints: `sound_print` of each.
        seconds: length of each.
    """
    by_length = sorted(range(len(prints)), key=lambda number: (seconds[number], prints[number]))
    return [
        (number, other)
        for place, number in enumerate(by_length)
        for other in by_length[place + 1 : place + 1 + NEIGHBOURS]
        if seconds[other] - seconds[number] <= SAME_LENGTH and sound_alike(prints[number], prints[other])
    ]


def sound_print(first: np.ndarray, last: np.ndarray) -> str:
    """A text by which `sound_alike` knows a recording again: the low frequencies of two pieces of it.

    Args:
        first, last: float32 (samples,) first and last segment, at 16 kHz.
    """
    samples = round(PIECE * SAMPLING_RATE)
    return " ".join(_encode(piece) for piece in (first[:samples], last[-samples:]))


def sound_alike(a: str, b: str) -> bool:
    """Whether two sound prints are of the same sound, whatever its level and codec."""
    return a == b or all(
        _correlation(*map(_decode, pieces)) > ALIKE for pieces in zip(a.split(" "), b.split(" "), strict=True)
    )


def bare_name(file: str) -> str:
    """The name of a file without folder, suffix and the mark of a copy, in lower case."""
    return COPY_MARK.sub("", PurePosixPath(file).stem).lower()


def _same_names(files: Sequence[str], seconds: Sequence[float]) -> Iterator[tuple[int, int]]:
    names = defaultdict(list)
    for number, file in enumerate(files):
        names[bare_name(file)].append(number)
    for of_one_name in names.values():
        by_length = sorted(of_one_name, key=lambda number: seconds[number])
        for place, number in enumerate(by_length):
            for other in by_length[place + 1 : place + 1 + NEIGHBOURS]:
                suffixes = {PurePosixPath(files[i]).suffix.lower() for i in (number, other)}
                if seconds[other] - seconds[number] <= SAME_LENGTH and len(suffixes) == 2:
                    yield number, other


def _same_bytes(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    sizes = [path.stat().st_size for path in paths]
    how_many = Counter(sizes)
    samples = defaultdict(list)  # by size and a sample of the content, since many files may have the same size
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if how_many[size] > 1:
            samples[size, _middle(path, size)].append(number)
    for alike in samples.values():
        different: list[int] = []
        for number in alike:
            same = [one for one in different if filecmp.cmp(paths[one], paths[number], shallow=False)]
            yield from ((one, number) for one in same)
            different += [] if same else [number]


def _middle(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size // 2)
        return file.read(4096)


def _encode(piece: np.ndarray) -> str:
    """8 bits per sample at a low rate; the difference of samples, since hum would make all recordings alike."""
    low = np.diff(soxr.resample(piece, SAMPLING_RATE, RATE))
    return base64.b64encode(np.round(127 * low / max(np.abs(low).max(initial=0), 1e-9)).astype(np.int8)).decode()


def _decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.int8).astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The largest correlation of two pieces, over shifts of up to `MOST_SHIFT`."""
    both = correlate(a, b, method="fft")  # entry len(b) - 1 is without a shift
    most = round(MOST_SHIFT * RATE)
    near = both[max(0, len(b) - 1 - most) : len(b) + most]
    return float(np.abs(near).max(initial=0) / max(np.sqrt((a @ a) * (b @ b)), 1e-9))
