"""Files as phones, browsers, pipes and killed recorders leave them: every sample arrives, or the reason is said."""

import io
import random
import struct

import av
import numpy as np
import pytest
import soundfile
from faults.spoiling import spoil

from hf_components.decoding.ffmpeg import FFmpegFile
from hf_components.speech.audio import AudioError, decode, read_duration, stream

pytestmark = pytest.mark.unit
RATE = 16_000


def tone(seconds: float, pitch: float = 220.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def by_libsndfile(samples: np.ndarray, rate: int = RATE, **options) -> bytes:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1 if samples.ndim == 1 else samples.shape[1], **options) as file:
        file.write(samples)
    return buffer.getvalue()


def by_ffmpeg(samples: np.ndarray, container: str, codec: str, rate: int = 48_000) -> bytes:
    """A file as a phone or a browser records it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        track = file.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(
            format=track.format, layout="mono", rate=rate, frame_size=track.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(track.encode(part))
        file.mux(track.encode(None))
    return buffer.getvalue()


def mp3(seconds: float, mode: str, pitch: float = 220.0) -> bytes:
    samples = tone(seconds, pitch, 44_100)
    return by_libsndfile(samples, 44_100, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)


def without_info(data: bytes) -> bytes:
    """The same without the first frame, which says how many follow."""
    (head,) = struct.unpack(">I", data[:4])
    kilobits = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0][head >> 12 & 15]
    return data[144_000 * kilobits // 44_100 + (head >> 9 & 1) :]


def wav(seconds: float, **chunk_sizes: int) -> bytes:
    """A WAV whose header says other sizes than are true: `riff` and `data`."""
    data = bytearray(by_libsndfile(tone(seconds), format="WAV", subtype="PCM_16"))
    place = data.find(b"data") + 4
    for name, start in (("riff", 4), ("data", place)):
        if name in chunk_sizes:
            data[start : start + 4] = struct.pack("<I", chunk_sizes[name])
    return bytes(data)


ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
ID3_AT_THE_END = b"TAG" + b"Genesis 1".ljust(125, b"\0")
OGG = {"format": "OGG", "subtype": "VORBIS"}
FILES = {
    "mp3 of constant rate without info": (without_info(mp3(3, "CONSTANT")), 3),
    "mp3 of variable rate without info": (without_info(mp3(3, "VARIABLE")), 3),
    "mp3 without info, with a tag at the end": (without_info(mp3(3, "VARIABLE")) + ID3_AT_THE_END, 3),
    "two mp3 joined": (mp3(2, "CONSTANT") + mp3(1, "CONSTANT", 440), 3),
    "three mp3 joined, tags between": (mp3(1, "VARIABLE") + ID3 + mp3(1, "VARIABLE") + ID3 + mp3(1, "VARIABLE"), 3),
    "mp3 behind a tag": (ID3 + mp3(3, "VARIABLE"), 3),
    "two ogg chained": (by_libsndfile(tone(2), **OGG) + by_libsndfile(tone(1, 440), **OGG), 3),
    "ogg": (by_libsndfile(tone(3), **OGG), 3),
    "short ogg": (by_libsndfile(tone(0.7), **OGG), 0.7),  # FFmpeg gives its last packet a duration of 2^32 samples
    "wav of a killed recorder": (wav(3, riff=0, data=0), 3),
    "wav from a pipe, all ones": (wav(3, riff=0xFFFFFFFF, data=0xFFFFFFFF), 3),
    "wav from a pipe, sox": (wav(3, riff=0x7FFFF024, data=0x7FFFF000), 3),
    "wav whose header promises 20 ms more": (wav(3, data=3 * 2 * RATE + 640), 3),
    "wav behind a tag": (ID3 + wav(3), 3),
    "flac behind a tag": (ID3 + by_libsndfile(tone(3), format="FLAC"), 3),
    "w64": (by_libsndfile(tone(3), format="W64", subtype="PCM_16"), 3),
    "m4a of a phone": (by_ffmpeg(tone(3), "mp4", "aac"), 3),
    "mov of a phone": (by_ffmpeg(tone(3), "mov", "aac"), 3),
    "3gp of a phone": (by_ffmpeg(tone(3), "3gp", "aac"), 3),
    "webm of a browser": (by_ffmpeg(tone(3), "webm", "libopus"), 3),
    "opus of a messenger": (by_ffmpeg(tone(3), "ogg", "libopus"), 3),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".wav", ".mp3", ""])
def test_every_sample_arrives(name, suffix, tmp_path):
    content, seconds = FILES[name]
    path = tmp_path / f"recording{suffix}"
    path.write_bytes(content)
    waveform = decode(path)
    assert abs(len(waveform) / RATE - seconds) < 0.12
    assert np.array_equal(waveform, decode(content))  # a path and its bytes are one recording
    assert abs(read_duration(path) - seconds) < 0.25  # with the padding of each part
    loud = np.abs(waveform).reshape(-1)[: len(waveform) // 800 * 800].reshape(-1, 800).max(1)  # each 50 ms
    assert (loud > 0.2).mean() > 0.85


@pytest.mark.parametrize("name", ["two mp3 joined", "webm of a browser", "wav of a killed recorder"])
def test_a_stream_joined_is_the_recording(name, monkeypatch):
    whole = decode(FILES[name][0])
    monkeypatch.setattr("hf_components.decoding.reading.BLOCK", 5000)
    blocks = [block.waveform for block in stream(FILES[name][0], is_ours=True)]
    assert len(blocks) > 5 and np.allclose(np.concatenate(blocks), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "unreadable audio", "git lfs pull"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(5000), "unreadable audio", "convert it to WAV or FLAC"),
        (FILES["m4a of a phone"][0][:20_000], "unreadable audio", "convert it"),  # its index, at the end, is lost
        (mp3(3, "VARIABLE")[:8000], "truncated audio", "header promises 3.0 s"),
        (wav(3)[: 3 * RATE], "truncated audio", "header promises"),
        (wav(3, data=3 * 2 * RATE + 6400), "truncated audio", "header promises"),  # 0.2 s are missing
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "unreadable audio", "neither"),
        (wav(0, riff=0, data=0), "empty audio", "less than one sample"),
        (FILES["webm of a browser"][0][:20_000], "truncated audio", "header promises 3.0 s"),
        (2 * by_libsndfile(tone(1), format="FLAC"), "truncated audio", "join them as WAV"),
    ],
)
def test_what_cannot_be_read_says_why_and_what_to_do(content, reason, remedy):
    with pytest.raises(AudioError, match=remedy) as error:
        decode(content)
    assert error.value.reason == reason


def test_channels_that_cancel_each_other_are_refused_and_others_mixed():
    one = tone(1)
    for second in (-one, -0.95 * one):
        with pytest.raises(AudioError, match="channels cancel each other") as error:
            decode(by_libsndfile(np.stack([one, second], 1), format="WAV"))
        assert error.value.reason == "unusable level"
    for second in (one, 0 * one, -0.5 * one, tone(1, 440)):
        assert np.abs(decode(by_libsndfile(np.stack([one, second], 1), format="WAV"))).max() > 0.05
    assert not decode(by_libsndfile(np.zeros((100, 2), np.float32), format="WAV")).any()  # silence stays silence


@pytest.mark.parametrize("scale", [32767, 2**23, 2**31])
def test_integers_that_were_not_divided_are_refused(scale):
    with pytest.raises(AudioError, match="divide by 32768"):
        decode(by_libsndfile(scale * tone(0.2), format="WAV", subtype="FLOAT"))
    assert np.abs(decode(by_libsndfile(4 * tone(0.2), format="WAV", subtype="FLOAT"))).max() > 1  # only loud


@pytest.mark.parametrize("channels", [8, 9, 16])
def test_many_channels_are_read(channels):
    """A microphone array; libsndfile reads this only if its header is as it should be."""
    samples = np.stack([tone(0.5, 100 + 20 * channel) for channel in range(channels)], axis=1)
    data = by_libsndfile(samples, format="WAV", subtype="FLOAT")
    with FFmpegFile(data) as file:
        read = np.concatenate(list(file.blocks(1000)))
    assert np.array_equal(read, samples)


def video_without_sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        track = file.add_stream("mpeg4", rate=10, width=16, height=16, pix_fmt="yuv420p")
        for _ in range(5):
            file.mux(track.encode(av.VideoFrame(16, 16, "yuv420p")))
        file.mux(track.encode(None))
    return buffer.getvalue()


def unknown_coding() -> bytes:
    return by_ffmpeg(tone(0.5), "matroska", "pcm_s16le").replace(b"A_PCM/INT/LIT", b"A_QQQ/QQQ/QQQ")


@pytest.mark.parametrize("make", [video_without_sound, unknown_coding])
@pytest.mark.parametrize("read", [decode, read_duration])
def test_a_file_without_a_track_that_can_be_decoded_is_refused(make, read):
    with pytest.raises(AudioError, match=r"unreadable audio: .*convert it to WAV or FLAC"):
        read(make(), name="film.mp4")


@pytest.mark.parametrize(
    "content",
    [
        by_ffmpeg(tone(0.5), "ac3", "ac3"),
        by_ffmpeg(tone(0.5), "matroska", "pcm_s16le"),
        by_ffmpeg(tone(0.5), "ipod", "aac"),
        by_libsndfile(tone(0.5), format="CAF", subtype="PCM_16"),
        by_libsndfile(tone(0.5), format="W64", subtype="PCM_16"),
    ],
    ids=["ac3", "mka", "m4a", "caf", "w64"],
)
def test_a_spoiled_file_is_read_or_refused_by_its_name(content):
    """Whatever is wrong; damage between packets and within them ended in errors of FFmpeg."""
    refused = 0
    for seed in range(150):
        try:
            decode(spoil(content, random.Random(seed)), name="recording")
        except AudioError as error:
            assert str(error).startswith("recording: ")
            refused += 1
    assert 0 < refused < 150
