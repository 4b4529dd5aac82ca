"""Files that end before or after what their header says: never silently the part that a decoder reads."""

import io
import os
import struct

import av
import numpy as np
import pytest
import soundfile
from tiny_speech import tone

from hf_components.decoding import reading
from hf_components.decoding.ends import what_follows, what_is_missing

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


def by_ffmpeg(container: str, codec: str, rate: int = 48_000, **options: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, container_options=options) as file:
        track = file.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(format=track.format, layout="mono", rate=rate, frame_size=track.frame_size)
        frame = av.AudioFrame.from_ndarray(SPEECH[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(track.encode(part))
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_every_frame+empty_moov"}], ids=["whole", "in fragments"])
def test_joined_recordings_of_phones(options):
    content = by_ffmpeg("mp4", "aac", **options)
    assert what_follows(content) is None
    with pytest.raises(reading.SoundError, match="several MP4 files were joined"):
        seconds(content + content)


def mp3() -> bytes:
    """Without the frame that says how many follow."""
    buffer = io.BytesIO()
    soundfile.write(buffer, SPEECH, 16_000, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    content = buffer.getvalue()
    return content[content.index(content[:3], 4) :]


IN_PIECES = {
    "Opus": by_ffmpeg("ogg", "libopus"),
    "AAC in ADTS": by_ffmpeg("adts", "aac"),
    "MP2": by_ffmpeg("mp2", "mp2"),
    "MP2 at 16 kHz": by_ffmpeg("mp2", "mp2", 16_000),
    "MP3 without Xing": mp3(),
    "MP3 behind a tag": b"ID3\4\0\0\0\0\1\0" + bytes(128) + mp3(),
    "AVI": by_ffmpeg("avi", "mp3"),
    "MP3 in a WAV": by_ffmpeg("wav", "mp3"),
    "MP4 in fragments": by_ffmpeg("mp4", "aac", movflags="frag_every_frame+empty_moov"),
    "WebM": by_ffmpeg("webm", "libopus"),
    "FLV": by_ffmpeg("flv", "aac", 44_100),
    "CAF": encoded("CAF"),
}


@pytest.mark.parametrize("form", IN_PIECES)
def test_pieces_are_whole_or_the_file_was_cut_short(form):
    content = IN_PIECES[form]
    assert what_is_missing(content) is None and 1.9 < seconds(content) < 2.2
    assert what_is_missing(content + b"TAG" + b"title" * 25) is None
    for length in (len(content) // 2 + 5, len(content) - 705):  # in the middle of a frame
        if form == "FLV" and length > len(content) // 2:  # its header promises a length, and little is missing
            continue
        with pytest.raises(reading.SoundError) as error:
            seconds(content[:length])
        assert error.value.reason in ("truncated audio", "unreadable audio")


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("harm", ["a bit", "a hole", "bytes lost"])
def test_ogg_that_was_damaged(codec, harm):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(SPEECH, 3), 16_000, format="OGG", subtype=codec)
    content = bytearray(buffer.getvalue())
    middle = len(content) // 2
    assert what_is_missing(bytes(content)) is None
    if harm == "a bit":
        content[middle] ^= 1
    elif harm == "a hole":
        content[middle : middle + 2000] = bytes(2000)
    else:
        del content[middle : middle + 2000]
    with pytest.raises(reading.SoundError, match=r"a page of Ogg is damaged at byte \d+.*get the recording again"):
        seconds(bytes(content))


@pytest.mark.parametrize("container", ["mp4", "3gp"])
def test_a_hole_that_is_too_short_to_be_missed_in_the_length(container):
    content = bytearray(by_ffmpeg(container, "aac"))
    middle = len(content) // 2
    content[middle : middle + 900] = bytes(900)
    with pytest.raises(reading.SoundError, match=r"0\.\d+ s of it are damaged and cannot be decoded"):
        seconds(bytes(content))


@pytest.mark.parametrize("length", [300, 3000])
def test_ogg_without_a_whole_page_of_sound_is_no_empty_recording(length):
    buffer = io.BytesIO()
    soundfile.write(buffer, SPEECH, 16_000, format="OGG", subtype="VORBIS")
    with pytest.raises(reading.SoundError, match="ends in the middle of a page of Ogg.*get it again"):
        seconds(buffer.getvalue()[:length])


def test_a_stream_of_unknown_length_is_whole():
    live = by_ffmpeg("webm", "libopus", live="1")
    assert what_is_missing(live[: len(live) // 2]) is None and seconds(live) > 1.9


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("read", [seconds, reading.read_duration])
def test_what_never_ends_is_no_file(make, read, tmp_path):
    make(tmp_path / "a.wav")
    with pytest.raises(reading.SoundError, match="a pipe or a device.*write it to a file"):
        read(str(tmp_path / "a.wav"))
