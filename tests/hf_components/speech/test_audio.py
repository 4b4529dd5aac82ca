import copy
import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from hf_components.decoding import reading
from hf_components.runtime.errors import UserError
from hf_components.speech import audio
from hf_components.speech.audio import (
    AudioError,
    count_mel_frames,
    decode,
    encode_flac,
    log_mel,
    read_duration,
    stream,
)

pytestmark = pytest.mark.unit


def encoded(samples: np.ndarray, rate: int = 16_000, **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **({"format": "WAV"} | options))
    return buffer.getvalue()


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


def test_flac_keeps_16_bit_audio_bit_for_bit():
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    waveform = decode(encoded(samples))
    assert waveform.dtype == np.float32
    assert np.array_equal(soundfile.read(io.BytesIO(encode_flac(waveform)), dtype="int16")[0], samples)


def test_flac_clips_and_does_not_wrap():
    samples, _ = soundfile.read(io.BytesIO(encode_flac(np.array([2.0, -2.0], dtype=np.float32))), dtype="int16")
    assert samples.tolist() == [32767, -32768]


@pytest.mark.parametrize("rate, channels", [(16_000, 1), (16_000, 2), (44_100, 1), (8_000, 2), (11_025, 1)])
@pytest.mark.parametrize("block", [1000, 4410, 20_000])
def test_a_stream_joined_is_the_recording(monkeypatch, rate, channels, block):
    samples = np.stack([noise(20_000, seed) for seed in range(channels)], axis=1)
    source = encoded(samples, rate)
    mono = soundfile.read(io.BytesIO(source), dtype="float32", always_2d=True)[0].mean(axis=1)
    whole = mono if rate == 16_000 else soxr.resample(mono, rate, 16_000)
    monkeypatch.setattr(reading, "BLOCK", block)
    blocks = list(stream(source, is_ours=True))
    assert len(blocks) == 20_000 // block + 1
    assert np.array_equal(np.concatenate([block.waveform for block in blocks]), whole)
    assert np.array_equal(decode(source), whole)
    assert sum(block.source_samples for block in blocks) == 20_000 * channels


def test_samples_at_full_scale_are_counted():
    samples = np.array([[32767, 0], [-32768, 32767], [32766, -32767], [5, 5]], np.int16)
    (block,) = stream(encoded(samples, 16_000))
    assert (block.source_samples, block.clipped) == (8, 4)


def test_stereo_at_8_khz_is_mixed_down_and_resampled(tmp_path):
    time = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 8000)
    waveform = decode(tmp_path / "a.wav")
    assert waveform.shape == (16_000,)
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(waveform - expected)[200:-200].max() < 1e-3
    assert read_duration(tmp_path / "a.wav") == 1.0


@pytest.mark.parametrize(
    "format, subtype",
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("WAV", "FLOAT")],
)
def test_truncated_recordings_are_noticed_and_whole_ones_are_not(format, subtype):
    whole = encoded(noise(48_000), format=format, subtype=subtype)
    assert len(decode(whole)) == 48_000
    with pytest.raises(AudioError, match="a.x: truncated audio") as error:
        decode(whole[: len(whole) // 2], name="a.x")
    assert error.value.reason == "truncated audio"


def test_wav_written_to_a_pipe_is_not_truncated():
    whole = bytearray(encoded(noise(4000)))
    whole[40:44] = b"\xff" * 4  # the size of the data chunk was not known when the header was written
    assert len(decode(bytes(whole))) == 4000


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty audio"),
        (b"These are words, not sound.", "unreadable audio"),
        (encoded(noise(0)), "empty audio"),
        (encoded(np.array([0, np.nan], np.float32), subtype="FLOAT"), "non-finite samples"),
        (encoded(np.array([0, np.inf], np.float32), subtype="FLOAT"), "non-finite samples"),
    ],
    ids=["nothing", "text", "no samples", "nan", "inf"],
)  # a float WAV holds the time: workers would name it differently
def test_bad_files_give_a_reason_with_their_name(tmp_path, content, reason):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=f"bad.wav: {reason}") as error:
        decode(path)
    assert error.value.reason == reason
    assert copy.copy(error.value).reason == reason  # rebuilt the way a worker process sends it


def test_missing_file_and_folder_are_unreadable(tmp_path):
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(AudioError, match="unreadable audio"):
            decode(path)


@pytest.mark.parametrize("samples", [1, 160, 399, 16_000, 16_157, 25_640, 479_681, 479_999, 480_000])
def test_log_mel_equals_the_extractor_at_30_s(extractor, samples):
    waveform = noise(samples)
    waveform[-1] = 1.0  # a click at the end, seen by frames after it, must not change the clamp
    stock = torch.from_numpy(extractor(waveform, sampling_rate=16_000).input_features)
    shortest = 2 * -(-samples // 320)
    for frames in {None, shortest, min(shortest + 50, 3000), 3000}:
        features = log_mel(extractor, [waveform], frames)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, stock[:, :, : features.shape[2]], atol=1e-5, rtol=0)
    length = count_mel_frames(extractor, samples)
    assert length % 2 == 0
    left = stock[:, :, length:]
    assert torch.equal(left.amin(1), left.amax(1))  # what is cut off never saw the clip


def test_log_mel_of_a_batch_pads_to_its_longest_with_equal_bins(extractor):
    clips = [noise(8000), noise(32_000, seed=1), noise(100, seed=2)]
    batch = log_mel(extractor, clips)
    assert batch.shape == (3, 80, count_mel_frames(extractor, 32_000))
    for row, clip in zip(batch, clips, strict=True):
        torch.testing.assert_close(row, log_mel(extractor, [clip], batch.shape[2])[0], atol=1e-5, rtol=0)
        padding = row[:, count_mel_frames(extractor, len(clip)) :]
        assert torch.equal(padding.amin(0), padding.amax(0))


@pytest.mark.parametrize(
    "samples, frames, message",
    [
        (480_001, None, "30.00 s does not fit into 3000"),
        (3200, 18, "does not fit into 18"),
        (320, 3, "even number"),
        (320, 3002, "got 3002"),
        (320, 0, "got 0"),
        (0, None, "at least one sample"),
    ],
)
def test_log_mel_never_truncates(extractor, samples, frames, message):
    with pytest.raises(UserError, match=message):
        log_mel(extractor, [noise(samples)], frames)


def header(rate: int, channels: int = 1, frames: int = 1000) -> bytes:
    """A WAV of noise whose header gives that rate."""
    samples = (np.random.default_rng(0).standard_normal(frames * channels) * 3000).astype("<i2").tobytes()
    width = 2 * channels
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, (rate * width) & 0xFFFFFFFF, width, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", len(samples))
        + samples
    )


@pytest.mark.parametrize(
    ("rate", "channels"),
    [(1, 1), (10, 2), (999, 1), (768_001, 1), (2_000_000_000, 1), (4_000_000_000, 1), (16_000, 65), (8_000, 1000)],
)
def test_a_header_that_no_recording_has_is_refused_before_it_is_decoded(tmp_path, rate, channels):
    (tmp_path / "a.wav").write_bytes(header(rate, channels))
    for source in (tmp_path / "a.wav", header(rate, channels)):
        for read in (decode, read_duration):
            with pytest.raises(AudioError, match="unreadable audio: "):
                read(source)


@pytest.mark.parametrize("rate", [1_000, 4_000, 192_000, 768_000])
def test_rates_of_recordings_are_read(rate):
    assert len(decode(header(rate))) == pytest.approx(16_000 * 1000 / rate, abs=2)


def test_a_recording_that_is_too_long_is_refused_while_it_is_read(tmp_path, monkeypatch):
    """Hours of silence are a small file."""
    soundfile.write(tmp_path / "a.flac", np.zeros(3 * 2**20, np.int16), 16_000)
    read = []
    real = audio.stream

    def counted(*arguments):
        for block in real(*arguments):
            read.append(len(block.waveform))
            yield block

    monkeypatch.setattr(audio, "stream", counted)
    with pytest.raises(AudioError, match="a.flac: too long: more than 0.0166667 h"):
        decode(tmp_path / "a.flac", longest=60)
    assert len(read) == 1
    assert len(decode(tmp_path / "a.flac", longest=200)) == 3 * 2**20
