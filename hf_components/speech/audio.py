"""Decode, encode, resample, log-mel: the only place in the library that opens a sound file."""

import io
import re
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from hf_components.runtime import UserError

SAMPLING_RATE = 16_000
NO_FILE = 7  # libsndfile's error for no file, and for what is called .mp3 and is something else
NOT_ITS_NAME = "Not of the format that its name promises"
BLOCK = 1 << 20  # frames read at once; a header that lies about the length must not decide how much is allocated
FULL_SCALE = 32767 / 32768  # what 16 bits can say, and what a decoder that overshoots them goes beyond
UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's frame count for a stream whose header has none
# libsndfile shortens a RIFF or AIFF chunk that is longer than its file and only notes it in its log.
SHORTENED_CHUNK = re.compile(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)")
STREAMED = 0x7FFF_FFFF  # programs that write a WAV to a pipe leave a chunk size from here upwards


class AudioError(UserError):
    """A recording that cannot be used.

    Attributes:
        reason: "unreadable audio", "empty audio", "truncated audio" or "non-finite samples".
        detail: what was found.
    """

    def __init__(self, name: str, reason: str, detail: str):
        super().__init__(f"{name}: {reason}: {detail}")
        self.name = name
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # exceptions are rebuilt from one argument by default, and workers send them home
        return type(self), (self.name, self.reason, self.detail)


class Block(NamedTuple):
    """What `stream` reads at once: a float32 waveform (samples,) at the rate asked for, and how many samples of the
    source, of all its channels, were read for it and how many of these touch full scale."""

    waveform: np.ndarray
    source_samples: int
    clipped: int


def decode(source: str | Path | bytes, sampling_rate: int = SAMPLING_RATE, name: str | None = None) -> np.ndarray:
    """Read a whole recording, mix its channels down and resample it.

    Args:
        source: path, or the bytes of a sound file in any format of libsndfile (WAV, FLAC, MP3, OGG, AIFF, ...).
        sampling_rate: of the result, in Hz.
        name: used in errors; the path by default.
    Returns:
        float32 waveform (samples,) in [-1, 1].
    Raises:
        AudioError: not readable as audio, empty, shorter than its header says, or with NaN or infinite samples.
    """
    blocks = [block.waveform for block in stream(source, sampling_rate, name)]
    return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))


def stream(source: str | Path | bytes, sampling_rate: int = SAMPLING_RATE, name: str | None = None) -> Iterator[Block]:
    """As `decode`, a block at a time: joined they are the same bits, and memory does not grow with the recording.

    What is wrong with a recording may be found at its very end, after blocks of it have been given.
    """
    name = name or _name(source)
    with _open(source, name) as file:
        rate = file.samplerate
        total = 0
        given = 0
        resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32") if rate != sampling_rate else None
        for channels in _read(file, name):  # (frames, channels)
            if bad := channels.size - np.count_nonzero(np.isfinite(channels)):
                raise AudioError(
                    name,
                    "non-finite samples",
                    f"{bad} of the {channels.size} samples from {total / rate:.1f} s on are NaN or infinite",
                )
            total += len(channels)
            waveform = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
            if resampler is not None:
                waveform = resampler.resample_chunk(waveform, last=len(channels) < BLOCK)
            given += len(waveform)
            yield Block(waveform, channels.size, int(np.count_nonzero(np.abs(channels) >= FULL_SCALE)))
        if not given:
            raise AudioError(name, "empty audio", f"{total} frames at {rate} Hz are less than one sample")


def read_duration(source: str | Path | bytes, name: str | None = None) -> float:
    """The length in seconds that the header promises, without decoding.

    Raises:
        AudioError: not readable as audio, or empty.
    """
    name = name or _name(source)
    with _open(source, name) as file:
        return file.frames / file.samplerate


def encode_flac(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """Encode a float waveform (samples,) as 16-bit mono FLAC; samples outside [-1, 1] are clipped.

    What was decoded from 16-bit audio at the same rate comes back bit for bit.
    """
    return _encode(waveform, sampling_rate, "FLAC")


def encode_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """As `encode_flac`, as WAV, which every browser and editor plays."""
    return _encode(waveform, sampling_rate, "WAV")


def count_mel_frames(feature_extractor: WhisperFeatureExtractor, num_samples: int) -> int:
    """Mel frames that hold a clip of `num_samples`: an even number, at most those of 30 s.

    The STFT window reaches half its length to both sides, so one or two frames after the end still see the clip.
    They are counted where they fit.
    """
    frames = ceil((num_samples + feature_extractor.n_fft // 2) / feature_extractor.hop_length)
    return min(frames + frames % 2, feature_extractor.nb_max_frames)


def log_mel(
    feature_extractor: WhisperFeatureExtractor, waveforms: Sequence[np.ndarray], frames: int | None = None
) -> torch.Tensor:
    """Whisper's log-mel features of a batch, padded to its longest clip instead of to 30 s.

    Every frame equals the one that the extractor gives for the same clip padded to 30 s, whatever the padding here:
    the clamp at the clip's maximum - 8 sees all frames that see the clip. Frames after the clip have all mel bins
    equal, as in stock padding, which is how the model finds them.

    Args:
        feature_extractor: of the checkpoint; 10 ms per frame for all of Whisper's.
        waveforms: float32 (samples,) each, at the extractor's sampling rate, 30 s at most.
        frames: length of the result, even, at most 3000; by default the longest clip's `count_mel_frames`.
    Returns:
        float32 (batch, n_mels, frames).
    Raises:
        UserError: a clip is empty, or longer than `frames` or 30 s; `frames` is not an even number in [2, 3000].
    """
    longest = max(map(len, waveforms))
    most = feature_extractor.nb_max_frames
    if min(map(len, waveforms)) == 0:
        raise UserError("log-mel features need at least one sample per clip, got an empty one")
    frames = count_mel_frames(feature_extractor, longest) if frames is None else frames
    if frames % 2 or not 2 <= frames <= most:
        raise UserError(f"frames must be an even number in [2, {most}], got {frames}")
    if longest > frames * feature_extractor.hop_length:
        raise UserError(
            f"a clip of {longest / feature_extractor.sampling_rate:.2f} s does not fit into {frames} mel frames "
            f"({frames * feature_extractor.hop_length / feature_extractor.sampling_rate:.2f} s); segment it"
        )
    # Two frames more, cut off below, so that the end of the padded waveform mirrors silence, as it does at 30 s,
    # and the clip's maximum is taken over all frames that see it.
    padded = min(frames + 2, most) * feature_extractor.hop_length
    features = feature_extractor(
        list(waveforms),
        sampling_rate=feature_extractor.sampling_rate,
        max_length=padded,
        padding="max_length",
        return_tensors="pt",
    ).input_features
    return features[:, :, :frames].contiguous()


def _encode(waveform: np.ndarray, sampling_rate: int, container: str) -> bytes:
    samples = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sampling_rate, format=container, subtype="PCM_16")
    return buffer.getvalue()


def _name(source: str | Path | bytes) -> str:
    return "audio bytes" if isinstance(source, bytes) else str(source)


def _open(source: str | Path | bytes, name: str) -> soundfile.SoundFile:
    try:
        size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
        if size == 0:
            raise AudioError(name, "empty audio", "0 bytes")
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except OSError as error:
        raise AudioError(name, "unreadable audio", error.strerror or str(error)) from error
    except soundfile.LibsndfileError as error:
        detail = NOT_ITS_NAME if error.code == NO_FILE else error.error_string.rstrip(".")
        raise AudioError(name, "unreadable audio", detail) from error
    problem = None
    if file.frames == UNKNOWN_LENGTH:
        problem = "unreadable audio", "its header gives no length (it was written to a pipe); encode it again"
    elif file.frames == 0:
        problem = "empty audio", "0 samples"
    if problem:
        file.close()
        raise AudioError(name, *problem)
    return file


def _read(file: soundfile.SoundFile, name: str) -> Iterator[np.ndarray]:
    """All frames as float32 (frames, channels) in blocks of `BLOCK` frames, the last of them shorter, perhaps
    empty."""
    chunk = SHORTENED_CHUNK.search(file.extra_info)
    if chunk and STREAMED > int(chunk[1]) > int(chunk[2]) + 1:  # one byte is padding to an even size
        raise AudioError(
            name, "truncated audio", f"header promises {chunk[1]} bytes of samples, the file has {chunk[2]}"
        )
    total, block = 0, None
    while block is None or len(block) == BLOCK:
        try:
            block = file.read(BLOCK, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                name,
                "truncated audio",
                f"header promises {file.frames} frames, decoding stopped: {error.error_string.rstrip('.')}",
            ) from error
        total += len(block)
        if len(block) < BLOCK and total < file.frames:
            raise AudioError(name, "truncated audio", f"header promises {file.frames} frames, {total} can be read")
        yield block
