"""The pieces that files of phones, browsers and the web are made of, each with its length in its header."""

import zlib
from collections.abc import Callable
from typing import NamedTuple

from .ffmpeg import id3_size

Content = bytes  # or an mmap, which is read in the same way

UNKNOWN = 0x7F00_0000  # programs that write to a pipe do not know the size of a RIFF, and give 0, this, or more
# Kilobits per second by the index in the header of a frame of MPEG audio, for layers II and III.
KILOBITS = {
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
BOXES = b"ftyp styp moov mdat moof mfra free skip wide pnot sidx ssix meta uuid emsg prft".split()
CAF_CHUNKS = b"desc data pakt chan info kuki free mark regn umid uuid peak ovvw midi strg edct inst".split()
HERTZ = (44_100, 48_000, 32_000)  # of version 1; half of it in version 2, a quarter in 2.5
BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
CHECKSUM = slice(22, 26)  # its place in a page of Ogg


class DamagedError(Exception):
    """A piece is not as it was written; FFmpeg leaves it out without a word."""


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        start: pattern of its first bytes.
        name: name of a piece.
        end: content and place of a piece -> place after it; None if no such piece begins there, or its size is open.
            Raises DamagedError.
    """

    start: bytes
    name: str
    end: Callable[[Content, int], int | None]


def start_of_sound(content: Content) -> int:
    """The place after an ID3 tag."""
    return id3_size(content[:10])


def _page(content: Content, place: int) -> int | None:
    """A page of Ogg (RFC 3533). Raises DamagedError."""
    head = content[place : place + 27]
    if not head.startswith(b"OggS"):
        if content.find(b"OggS", place) < 0:
            return None
        raise DamagedError(f"at byte {place}")
    if len(head) < 27:
        return place + 27
    sizes = content[place + 27 : place + 27 + head[26]]
    end = place + 27 + head[26] + sum(sizes)
    if end <= len(content) and _checksum(content[place:end]) != int.from_bytes(head[CHECKSUM], "little"):
        raise DamagedError(f"at byte {place}")
    return end


def _checksum(page: bytes) -> int:
    """The checksum of a page: CRC-32 as in `zlib`, but from the highest bit on, and without inversions."""
    written = page[: CHECKSUM.start] + bytes(4) + page[CHECKSUM.stop :]
    found = zlib.crc32(written.translate(BITS_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{found:032b}"[::-1], 2)


def _box(content: Content, place: int) -> int | None:
    """A box of MP4, QuickTime or 3GP."""
    head = content[place : place + 16]
    if len(head) < 8:
        return place + 8
    if head[4:8] not in BOXES:
        return None
    size = int.from_bytes(head[:4], "big")
    if size == 1:
        size = int.from_bytes(head[8:16], "big")
    return place + size if size >= 8 else None  # 0: until the end of the file


def _caf_chunk(content: Content, place: int) -> int | None:
    """A chunk of CAF, or its head."""
    head = content[place : place + 12]
    if head.startswith(b"caff"):
        return place + 8
    size = int.from_bytes(head[4:12], "big", signed=True)
    return place + 12 + size if head[:4] in CAF_CHUNKS and size >= 0 else None


def _riff(content: Content, place: int) -> int | None:
    """A RIFF; longer AVIs consist of several."""
    head = content[place : place + 8]
    size = int.from_bytes(head[4:8], "little")
    return place + 8 + size + size % 2 if head.startswith(b"RIFF") and 0 < size < UNKNOWN else None


def _element(content: Content, place: int) -> int | None:
    """The head or the only segment of Matroska or WebM (RFC 8794)."""
    head = content[place : place + 12]
    if head[:4] not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") or len(head) < 12:
        return None
    length = 9 - head[4].bit_length()  # bytes of the size
    size = int.from_bytes(head[4 : 4 + length], "big") & ((1 << 7 * length) - 1)
    is_open = size == (1 << 7 * length) - 1
    return None if is_open or length > 8 else place + 4 + length + size


def _aac_frame(content: Content, place: int) -> int | None:
    """A frame of AAC in ADTS."""
    head = content[place : place + 6]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return place + size if size > 7 else None


def _mpeg_frame(content: Content, place: int) -> int | None:
    """A frame of MP3 or MP2, or a tag between joined files."""
    head = content[place : place + 10]
    if tag := id3_size(head):
        return place + tag
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version = {0: 4, 2: 2, 3: 1}.get(head[1] >> 3 & 3)  # by what the sampling rate is divided
    layer = 4 - (head[1] >> 1 & 3)
    bit_rate = head[2] >> 4
    sampling_rate = head[2] >> 2 & 3
    if version is None or layer not in (2, 3) or not 0 < bit_rate < 15 or sampling_rate == 3:
        return None
    kilobits = KILOBITS[min(version, 2), layer][bit_rate]
    samples = 576 if layer == 3 and version > 1 else 1152
    return place + samples // 8 * kilobits * 1000 // (HERTZ[sampling_rate] // version) + (head[2] >> 1 & 1)


KINDS = (
    Kind(rb"OggS", "a page of Ogg", _page),
    Kind(rb"....(?:ftyp|moov|mdat|wide|free|skip)", "a box of MP4", _box),
    Kind(rb"caff", "a chunk of CAF", _caf_chunk),
    Kind(rb"RIFF....AVI ", "an AVI", _riff),
    Kind(rb"RIFF....WAVEfmt ....[\x50\x55]\0", "a WAV with MPEG audio", _riff),
    Kind(rb"\x1a\x45\xdf\xa3", "a segment of Matroska", _element),
    Kind(rb"\xff[\xf0\xf1\xf8\xf9]", "a frame of AAC", _aac_frame),
    Kind(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]", "a frame of MPEG audio", _mpeg_frame),
)
