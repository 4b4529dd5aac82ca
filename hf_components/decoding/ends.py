"""Whether a file goes on after the sound that a decoder reads, or ends before it: joined, wrong sizes, cut short."""

import contextlib
import itertools
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from .pieces import KINDS, DamagedError, start_of_sound

# How files begin that end by what their header says. If one begins within another, only the first is read.
STARTS = {
    "WAV": rb"RIFF....WAVE",
    "RF64": rb"RF64....WAVE",
    "AIFF": rb"FORM....AIF[FC]",
    "AU": rb"\.snd\0\0\0.\0",
    "CAF": rb"caff\0\x01\0\0desc",
    "FLAC": rb"fLaC\0\0\0\x22",
    "MP4": rb"\0\0\0.ftyp",
}
FIRST_CHUNK = 12  # its place in a WAV
HEAD = 8  # bytes of a chunk before its content: name and size
BYTE_RATE = 16  # place of the bytes per second in the chunk `fmt `
SEARCHED = 4096  # bytes after the last chunk that tell what they are


CUT_SHORT = "it ends in the middle of {}: the recording or its copy broke off; get it again"
DAMAGED = "{} is damaged {}, and nobody reads it: get the recording again"


def what_follows(source: str | bytes) -> str | None:
    """Words for what is left of a file after its sound, if that may be sound too; else None."""
    with content_of(source) as content:
        for form, start in STARTS.items():
            if re.match(start, content, re.DOTALL):
                if next(itertools.islice(re.finditer(start, content, re.DOTALL), 1, None), None):
                    return (
                        f"several {form} files were joined, and only the first is read; join them as WAV, as sox does"
                    )
                return _after_chunks(content) if form == "WAV" else None
    return None


def what_is_missing(source: str | bytes) -> str | None:
    """Words for a file with a piece (a page, a box, a frame) that is not whole; None if all are, or of another kind.

    Their headers do not give the length of the sound, so a decoder takes what is there for all of it.
    """
    with content_of(source) as content:
        place = start_of_sound(content)
        kind = next((kind for kind in KINDS if re.match(kind.start, content[place : place + 24], re.DOTALL)), None)
        while kind is not None and place < len(content):
            try:
                end = kind.end(content, place)
            except DamagedError as where:
                return DAMAGED.format(kind.name, where)
            if end is None:  # something else follows, such as a tag
                return None
            if end > len(content) + 1:  # a byte that fills up an odd size is often left out
                return CUT_SHORT.format(kind.name)
            place = end
    return None


@contextlib.contextmanager
def content_of(source: str | bytes) -> Iterator[bytes | mmap.mmap]:
    """The bytes of a file, without reading it into memory."""
    if isinstance(source, bytes):
        yield source
        return
    with Path(source).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _after_chunks(content: bytes | mmap.mmap) -> str | None:
    """The same for a WAV: more than a second of bytes in no chunk, which are neither a tag nor zeros."""
    place = FIRST_CHUNK
    rate = None
    while place + HEAD <= len(content):
        name = content[place : place + 4]
        size = int.from_bytes(content[place + 4 : place + HEAD], "little")
        end = place + HEAD + size
        if name == b"data" and (not size or end > len(content)):  # of unknown length, so all is read
            return None
        if not (name.isascii() and name.decode().isprintable()) or end > len(content):
            break
        if name == b"fmt ":
            rate = int.from_bytes(content[place + BYTE_RATE : place + BYTE_RATE + 4], "little")
        place = end + size % 2
    rest = len(content) - place
    following = content[place : place + SEARCHED]
    if rate is None or rest <= rate or following.startswith((b"ID3", b"TAG")) or not any(following):
        return None
    return (
        f"{rest} of its {len(content)} bytes follow after its samples and belong to no chunk; if the sizes in its "
        "header are wrong, as in recordings above 4 GB, repair them: ffmpeg -ignore_length 1 -i IN.wav OUT.wav"
    )
