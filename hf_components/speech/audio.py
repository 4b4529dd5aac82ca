"""Decode, encode and resample audio, and compute log-mel features. Only this module opens sound files."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from hf_components.runtime import UserError
from hf_components.speech.ffmpeg import FFmpegFile, id3_size
from hf_components.speech.sndfile import SndFile, TruncatedError

SAMPLING_RATE = 16_000
BLOCK = 1 << 20  # frames read at once, so that a wrong length in a header does not decide how much is allocated
RATES = (1_000, 768_000)  # Hz; other rates come from damaged headers, and a second would become many
MOST_CHANNELS = 64
LONGEST = 6 * 3600.0  # seconds that are decoded at once, 1.4 GB; hours of silence are small files
FULL_SCALE = 32767 / 32768  # largest value of 16 bits; decoders may overshoot it
LOUDEST = 8.0  # larger float samples come from integers that were not divided
CANCELLED = 0.01  # smallest energy of a mix, as a share of its channels' energy; below it the sound is lost
ANNEX_POINTER = b"/annex/objects/"  # an unlocked file without content, or a link that was checked out as a file
LFS_POINTER = b"version https://git-lfs"
SOUND_AFTER_ID3 = (b"RIFF", b"RF64", b"FORM", b"fLaC")


class AudioError(UserError):
    """A recording that cannot be used.

    Attributes:
        reason: "unreadable audio", "empty audio", "truncated audio", "non-finite samples", "unusable level" or
            "too long".
        detail: details of the problem.
    """

    def __init__(self, name: str, reason: str = "", detail: str = ""):
        # Only one argument comes from a `DataLoader`, which raises the error of its worker anew, with its whole text.
        super().__init__(f"{name}: {reason}: {detail}" if reason else name)
        self.name = name
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # for workers that send it to the main process; by default only one argument would survive
        return type(self), (self.name, self.reason, self.detail)


class Block(NamedTuple):
    """Audio that `stream` reads at once.

    Attributes:
        waveform: float32 (samples,) at the requested sampling rate.
        source_samples: number of samples of the source that were read, in all channels.
        clipped: number of these at full scale.
    """

    waveform: np.ndarray
    source_samples: int
    clipped: int


def decode(
    source: str | Path | bytes,
    sampling_rate: int = SAMPLING_RATE,
    name: str | None = None,
    longest: float = LONGEST,
) -> np.ndarray:
    """Read a whole recording, mix its channels down and resample it.

    Args:
        source: path or bytes of a sound file in any format of libsndfile or FFmpeg (WAV, FLAC, MP3, OGG, M4A, ...).
        sampling_rate: sampling rate of the result in Hz.
        name: name of the recording in error messages; the path by default.
        longest: seconds; no more are held in memory.
    Returns:
        float32 waveform (samples,) in [-1, 1].
    Raises:
        AudioError: the file is not readable as audio, is empty, is shorter than its header says, has NaN or infinite
            samples, has float samples far above full scale, its channels cancel each other, or it is too long.
    """
    blocks = []
    room = longest * sampling_rate
    for block in stream(source, sampling_rate, name):
        blocks.append(block.waveform)
        room -= len(block.waveform)
        if room < 0:
            detail = f"more than {longest / 3600:g} h, which do not fit into the memory; cut it into parts"
            raise AudioError(name or _name(source), "too long", detail)
    return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))


def stream(source: str | Path | bytes, sampling_rate: int = SAMPLING_RATE, name: str | None = None) -> Iterator[Block]:
    """Decode block by block, in constant memory. The joined blocks are bit for bit the result of `decode`.

    An error at the end of a recording is raised only there, after blocks were yielded.
    """
    name = name or _name(source)
    with _open(source, name) as file:
        rate = file.samplerate
        total = 0
        given = 0
        energy = np.zeros(2)  # mean over channels, and of their mix
        resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32") if rate != sampling_rate else None
        for channels in _blocks(file, name):  # (frames, channels)
            _check_samples(channels, name, total / rate)
            total += len(channels)
            waveform = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
            energy += np.square(channels, dtype=np.float64).sum() / channels.shape[1], np.square(waveform).sum()
            if resampler is not None:
                waveform = resampler.resample_chunk(waveform, last=len(channels) < BLOCK)
            given += len(waveform)
            yield Block(waveform, channels.size, int(np.count_nonzero(np.abs(channels) >= FULL_SCALE)))
        if not given:
            raise AudioError(name, "empty audio", f"{total} frames at {rate} Hz are less than one sample")
        if energy[1] < CANCELLED * energy[0]:
            detail = "its channels cancel each other, because one is inverted: use only one channel"
            raise AudioError(name, "unusable level", detail)


def read_duration(source: str | Path | bytes, name: str | None = None) -> float:
    """The length in seconds given by the header. Raises AudioError if the file is empty or not readable as audio."""
    name = name or _name(source)
    with _open(source, name) as file:
        return file.seconds()


def encode_flac(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """Encode a float waveform (samples,) as 16-bit mono FLAC; samples outside [-1, 1] are clipped.

    Audio decoded from 16 bits at the same rate is restored bit for bit.
    """
    return _encode(waveform, sampling_rate, "FLAC")


def encode_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """The same as `encode_flac` but as WAV, which every browser and editor plays."""
    return _encode(waveform, sampling_rate, "WAV")


def encode_wav_file(source: Path, file: Path, sampling_rate: int = SAMPLING_RATE) -> Path:
    """Write a recording as 16-bit mono WAV to `file`, block by block, and return `file`. Raises AudioError."""
    with soundfile.SoundFile(file, "w", sampling_rate, channels=1, subtype="PCM_16") as written:
        for block in stream(source, sampling_rate):
            written.write(block.waveform)
    return file


def count_mel_frames(feature_extractor: WhisperFeatureExtractor, num_samples: int) -> int:
    """Mel frames that contain a clip of `num_samples`: an even number, at most the frames of 30 s.

    The STFT window is centred, so one or two frames after the end still contain samples of the clip. They count if
    they fit.
    """
    frames = ceil((num_samples + feature_extractor.n_fft // 2) / feature_extractor.hop_length)
    return min(frames + frames % 2, feature_extractor.nb_max_frames)


def log_mel(
    feature_extractor: WhisperFeatureExtractor, waveforms: Sequence[np.ndarray], frames: int | None = None
) -> torch.Tensor:
    """Whisper's log-mel features of a batch, padded to its longest clip instead of to 30 s.

    Every frame is the same as for the clip padded to 30 s: the clamp at the clip's maximum - 8 uses all frames that
    contain samples of the clip. In frames after the clip all mel bins are equal, as in stock padding; the model finds
    the padding by that.

    Args:
        feature_extractor: extractor of the checkpoint; every Whisper has 10 ms per frame.
        waveforms: float32 (samples,) each, at the extractor's sampling rate, 30 s at most.
        frames: number of frames of the result, even, at most 3000; by default `count_mel_frames` of the longest clip.
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
    # Two more frames, cut off below: then the STFT mirrors silence at the end, as it does at 30 s, and the maximum is
    # taken over all frames that contain samples of the clip.
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


def _open(source: str | Path | bytes, name: str) -> SndFile | FFmpegFile:
    """Open a file with libsndfile if that reads all its samples, else with FFmpeg."""
    try:
        head = source[:64] if isinstance(source, bytes) else _head(Path(source))
    except OSError as error:
        raise AudioError(name, "unreadable audio", error.strerror or str(error)) from error
    if not head:
        raise AudioError(name, "empty audio", "0 bytes")
    if ANNEX_POINTER in head:
        raise AudioError(name, "unreadable audio", "a git-annex pointer instead of the sound; run git annex get")
    if head.startswith(LFS_POINTER):
        raise AudioError(name, "unreadable audio", "a Git LFS pointer instead of the sound; run git lfs pull")
    if isinstance(source, bytes) and source[(tag := id3_size(head)) :].startswith(SOUND_AFTER_ID3):
        source = source[tag:]  # libsndfile skips the tag only in files
    problem = ("unreadable audio", "neither libsndfile nor FFmpeg reads it; convert it to WAV or FLAC")
    with contextlib.suppress(soundfile.LibsndfileError):
        file = SndFile(source if isinstance(source, bytes) else str(source))
        if file.is_read_whole:
            return _possible(file, file.file.channels, name)
        if file.file.frames == 0:
            problem = ("empty audio", "0 samples")
        file.file.close()
    try:
        file = FFmpegFile(source if isinstance(source, bytes) else Path(source))
    except (av.FFmpegError, OSError) as error:
        raise AudioError(name, *problem) from error
    return _possible(file, file.track.channels, name)


def _possible(file: SndFile | FFmpegFile, channels: int, name: str) -> SndFile | FFmpegFile:
    """The file, unless its header says what no recording has: it would fill the memory."""
    rate = file.samplerate or 0
    if RATES[0] <= rate <= RATES[1] and 1 <= channels <= MOST_CHANNELS:
        return file
    file.__exit__(None, None, None)
    detail = f"its header says {rate} Hz and {channels} channels, and recordings have {RATES[0]} to {RATES[1]} Hz and "
    raise AudioError(name, "unreadable audio", detail + f"1 to {MOST_CHANNELS} channels; repair or leave it out")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _blocks(file: SndFile | FFmpegFile, name: str) -> Iterator[np.ndarray]:
    total = 0
    try:
        for block in file.blocks(BLOCK):
            total += len(block)
            yield block
    except TruncatedError as error:
        raise AudioError(name, "truncated audio", str(error)) from error
    except (av.FFmpegError, ValueError) as error:  # damage between packets, or in what they say of frames
        detail = f"decoding stopped after {total / file.samplerate:.1f} s: {error}; repair or leave it out"
        raise AudioError(name, "unreadable audio", detail) from error
    promised = file.promised if isinstance(file, FFmpegFile) else None
    found = total / file.samplerate
    if promised is not None and promised - found > max(0.25, 0.02 * promised):
        raise AudioError(name, "truncated audio", f"header promises {promised:.1f} s, {found:.1f} s can be read")


def _check_samples(channels: np.ndarray, name: str, seconds: float) -> None:
    if bad := channels.size - np.count_nonzero(np.isfinite(channels)):
        detail = f"{bad} of the {channels.size} samples from {seconds:.1f} s on are NaN or infinite"
        raise AudioError(name, "non-finite samples", detail)
    if (peak := np.abs(channels).max(initial=0.0)) > LOUDEST:
        detail = f"samples reach {peak:.0f}, but full scale is 1: divide by 32768 if they were 16-bit integers"
        raise AudioError(name, "unusable level", detail)
