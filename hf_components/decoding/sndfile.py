"""Read sound files with libsndfile: WAV, AIFF, FLAC and similar formats, bit for bit."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's frame count if the header gives no length
# If a chunk of WAV, AIFF, AU, RF64 or W64 is longer than its file, libsndfile shortens it, and only its log says so.
SHORTENED_CHUNK = re.compile(r"(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)")
STREAMED = 0x7F00_0000  # programs that write to a pipe do not know the size of a chunk, and give this or more
SIZES_OF_64_BITS = ("RF64", "W64")  # there, sizes as large as `STREAMED` are real ones
TOLERANCE = 0.05  # seconds that may be missing compared to the header
SAMPLE_COUNT = re.compile(rb"sample_count -i (\d+)")
SPHERE_HEADER = 1024  # bytes of the header of a NIST SPHERE file
READ_IN_PART = ("MP3", "OGG")  # libsndfile may read only their first part, or only the length in the header


class TruncatedError(Exception):
    """The file is shorter than its header says."""


class SndFile:
    """An open sound file.

    Args:
        source: path or bytes of the file.
    Raises:
        soundfile.LibsndfileError: libsndfile does not read the format.
    """

    def __init__(self, source: str | bytes):
        self.source = source
        # Bytes of a path, since a name that is not UTF-8 cannot be encoded otherwise.
        self.file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source))
        self.samplerate = self.file.samplerate

    def __enter__(self) -> "SndFile":
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    @property
    def is_read_whole(self) -> bool:
        """Whether libsndfile reads all samples of the file."""
        in_part = self.file.format in READ_IN_PART or self.file.subtype.startswith("MPEG")
        return not in_part and 0 < self.file.frames < UNKNOWN_LENGTH

    def seconds(self) -> float:
        """Duration by the header."""
        return self.file.frames / self.samplerate

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All samples as float32 (frames, channels), in blocks of `size` frames; the last is shorter, maybe empty.

        Raises:
            TruncatedError: the file has fewer samples than its header says.
        """
        promised = max(self.file.frames, self._sample_count())
        chunk = SHORTENED_CHUNK.search(self.file.extra_info)
        if chunk and (int(chunk[1]) < STREAMED or self.file.format in SIZES_OF_64_BITS):
            missing = promised * (int(chunk[1]) / int(chunk[2]) - 1)
            if missing > TOLERANCE * self.samplerate:
                raise TruncatedError(f"header promises {chunk[1]} bytes of samples, the file has {chunk[2]}")
        total = 0
        block = None
        while block is None or len(block) == size:
            try:
                block = self.file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                detail = error.error_string.rstrip(".")
                raise TruncatedError(f"header promises {promised} frames, decoding stopped: {detail}") from error
            total += len(block)
            if len(block) < size and promised - total > TOLERANCE * self.samplerate:
                raise TruncatedError(f"header promises {promised} frames, {total} can be read")
            yield block

    def _sample_count(self) -> int:
        """Frames in the header of a NIST SPHERE file, which libsndfile does not compare with the file; else 0."""
        if self.file.format != "NIST":
            return 0
        with io.BytesIO(self.source) if isinstance(self.source, bytes) else Path(self.source).open("rb") as file:
            found = SAMPLE_COUNT.search(file.read(SPHERE_HEADER))
        return int(found[1]) if found else 0
