"""What is said of a file that no decoder reads."""

import gzip
import io
import zipfile

import av
import pytest
from tiny_speech import tone

from hf_components.decoding import reading

pytestmark = pytest.mark.unit


def m4a() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="ipod") as container:
        track = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1, 0, 1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*track.encode(frame), *track.encode(None)])
    return buffer.getvalue()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.wav", content)
    return buffer.getvalue()


FILES = {
    "ZIP": (zipped(b"sound"), "unpack it"),
    "gzip": (gzip.compress(b"sound", mtime=0), "unpack it"),
    "web page": (b"\n<!DOCTYPE html><html></html>", "get the recording again"),
    "JSON": (b'{"error": "not found"}', "get the recording again"),
    "text": (b"to be recorded\r\n", "it is text"),
    "zeros": (bytes(5000), "get it again"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(500), "leave it out"),
    "SPHERE with shorten": (
        b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n" + bytes(999),
        "sph2pipe",
    ),
    "dictation": (b"\3ds2" + bytes(range(256)), "save it as WAV"),
    "noise": (bytes(range(1, 256)), "convert it"),
}


@pytest.mark.parametrize("name", FILES)
def test_says_what_it_is_and_what_to_do(name, tmp_path):
    content, advice = FILES[name]
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, str(tmp_path / "a.wav")):
        with pytest.raises(reading.SoundError, match=advice) as error:
            reading.read_duration(source)
        assert error.value.reason == "unreadable audio" and isinstance(error.value.detail, str)


def test_phone_recording_that_broke_off(tmp_path):
    content = m4a()
    assert reading.read_duration(content) > 0.9
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(reading.SoundError, match="moov.*broke off.*convert it"):
        reading.read_duration(str(tmp_path / "a.m4a"))
