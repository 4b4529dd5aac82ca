"""Files that end before or after what their header says: never silently the part that a decoder reads."""

import io
import struct

import numpy as np
import pytest
import soundfile
from tiny_speech import tone

from hf_components.decoding import reading
from hf_components.decoding.ends import what_follows

pytestmark = pytest.mark.unit

SPEECH = tone(1, 0, 2.0)
WITH_LENGTH = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "FLAC")  # formats whose header gives the length


def encoded(form: str, waveform: np.ndarray = SPEECH) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, 16_000, format=form, subtype="PCM_16")
    return buffer.getvalue()


def seconds(content: bytes) -> float:
    return sum(len(block.waveform) for block in reading.stream(content, 16_000)) / 16_000


@pytest.mark.parametrize("form", WITH_LENGTH)
def test_whole_file(form):
    assert seconds(encoded(form)) == 2.0


@pytest.mark.parametrize("form", WITH_LENGTH)
def test_file_that_was_cut_short(form):
    content = encoded(form)
    with pytest.raises(reading.SoundError) as error:
        seconds(content[: len(content) // 2])
    assert error.value.reason == "truncated audio"


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "FLAC"])
def test_joined_files(form, tmp_path):
    content = encoded(form) + encoded(form, SPEECH[:8000])
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, str(tmp_path / "a.wav")):
        with pytest.raises(reading.SoundError, match="were joined"):
            next(reading.stream(source, 16_000))


def with_size(size: int, after: bytes = b"") -> bytes:
    """A WAV whose data chunk claims `size` bytes."""
    content = encoded("WAV")
    return content[:40] + struct.pack("<I", size) + content[44:] + after


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def test_size_that_has_wrapped_around():
    with pytest.raises(reading.SoundError, match="belong to no chunk.*ignore_length"):
        seconds(with_size(1000))


@pytest.mark.parametrize(
    "after",
    [
        chunk(b"LIST", b"INFOISFT" + bytes(100_000)),
        b"ID3\4\0\0" + bytes(range(1, 250)) * 400,
        b"TAG" + b"title" * 30,
        bytes(100_000),  # a recorder filled up its last block
        b"\1",
    ],
    ids=["chunk", "ID3", "ID3v1", "zeros", "odd byte"],
)
def test_what_may_follow(after):
    content = encoded("WAV") + after
    assert what_follows(content) is None and seconds(content) == 2.0


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_F000])
def test_unknown_size(size):
    assert seconds(with_size(size)) == 2.0
