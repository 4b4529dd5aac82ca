"""Decode a sound file in this process: open it with the library that reads it, check it, mix it down, resample it."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr

from .ends import what_follows, what_is_missing
from .ffmpeg import FFmpegFile, id3_size
from .sndfile import SndFile, TruncatedError
from .what_it_is import what_it_is

BLOCK = 1 << 20  # frames read at once, so that a wrong length in a header does not decide how much is allocated
RATES = (1_000, 768_000)  # Hz; other rates come from damaged headers, and a second would become many
MOST_CHANNELS = 64
FULL_SCALE = 32767 / 32768  # largest value of 16 bits; decoders may overshoot it
LOUDEST = 8.0  # larger float samples come from integers that were not divided
MOST_LOST = 0.05  # seconds that may be damaged; first and last packets are often odd
CANCELLED = 0.01  # smallest energy of a mix, as a share of its channels' energy; below it the sound is lost
ANNEX_POINTER = b"/annex/objects/"  # an unlocked file without content, or a link that was checked out as a file
LFS_POINTER = b"version https://git-lfs"
SOUND_AFTER_ID3 = (b"RIFF", b"RF64", b"FORM", b"fLaC")


class SoundError(Exception):
    """A recording that cannot be used.

    Attributes:
        reason: "unreadable audio", "empty audio", "truncated audio", "non-finite samples" or "unusable level".
        detail: details of the problem.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


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


def stream(source: str | bytes, sampling_rate: int) -> Iterator[Block]:
    """Decode block by block, in constant memory. Raises SoundError, also at the end, after blocks were yielded."""
    with _open(source) as file:
        if rest := what_follows(source):
            raise SoundError("truncated audio", rest)
        rate = file.samplerate
        total = 0
        given = 0
        energy = np.zeros(2)  # mean over channels, and of their mix
        resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32") if rate != sampling_rate else None
        for channels in _blocks(file):  # (frames, channels)
            _check_samples(channels, total / rate)
            total += len(channels)
            waveform = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1)
            energy += np.square(channels, dtype=np.float64).sum() / channels.shape[1], np.square(waveform).sum()
            if resampler is not None:
                waveform = resampler.resample_chunk(waveform, last=len(channels) < BLOCK)
            given += len(waveform)
            yield Block(waveform, channels.size, int(np.count_nonzero(np.abs(channels) >= FULL_SCALE)))
        if missing := what_is_missing(source):
            raise SoundError("truncated audio", f"{missing}, or keep what is there: ffmpeg -i IN OUT.wav")
        if isinstance(file, FFmpegFile) and file.lost > MOST_LOST:
            detail = f"{file.lost:.2f} s of it are damaged and cannot be decoded; repair or leave it out"
            raise SoundError("unreadable audio", detail)
        if not given:
            raise SoundError("empty audio", f"{total} frames at {rate} Hz are less than one sample")
        if energy[1] < CANCELLED * energy[0]:
            detail = "its channels cancel each other, because one is inverted: use only one channel"
            raise SoundError("unusable level", detail)


def read_duration(source: str | bytes) -> float:
    """The length in seconds given by the header. Raises SoundError."""
    with _open(source) as file:
        return file.seconds()


def _open(source: str | bytes) -> SndFile | FFmpegFile:
    """Open a file with libsndfile if that reads all its samples, else with FFmpeg."""
    head = _head_of_sound(source)
    if isinstance(source, bytes) and source[(tag := id3_size(head)) :].startswith(SOUND_AFTER_ID3):
        source = source[tag:]  # libsndfile skips the tag only in files
    problem = None
    with contextlib.suppress(soundfile.LibsndfileError):
        file = SndFile(source)
        if file.is_read_whole:
            return _possible(file, file.file.channels)
        if file.file.frames == 0 and not what_is_missing(source):
            problem = ("empty audio", "0 samples")
        file.file.close()
    try:
        file = FFmpegFile(source if isinstance(source, bytes) else Path(source))
    except (av.FFmpegError, OSError) as error:
        raise SoundError(*(problem or ("unreadable audio", what_it_is(source, head)))) from error
    return _possible(file, file.track.channels)


def _head_of_sound(source: str | bytes) -> bytes:
    """The first bytes of a file. Raises SoundError if they show that it holds no sound."""
    try:
        if not isinstance(source, bytes) and _is_stream(Path(source)):
            raise SoundError("unreadable audio", "it is a pipe or a device, and no file; write it to a file first")
        head = source[:64] if isinstance(source, bytes) else _head(Path(source))
    except OSError as error:
        raise SoundError("unreadable audio", error.strerror or str(error)) from error
    if not head:
        raise SoundError("empty audio", "0 bytes")
    if ANNEX_POINTER in head:
        raise SoundError("unreadable audio", "a git-annex pointer instead of the sound; run git annex get")
    if head.startswith(LFS_POINTER):
        raise SoundError("unreadable audio", "a Git LFS pointer instead of the sound; run git lfs pull")
    return head


def _possible(file: SndFile | FFmpegFile, channels: int) -> SndFile | FFmpegFile:
    """The file, unless its header says what no recording has: it would fill the memory."""
    rate = file.samplerate or 0
    if RATES[0] <= rate <= RATES[1] and 1 <= channels <= MOST_CHANNELS:
        return file
    file.__exit__(None, None, None)
    detail = f"its header says {rate} Hz and {channels} channels, and recordings have {RATES[0]} to {RATES[1]} Hz and "
    raise SoundError("unreadable audio", detail + f"1 to {MOST_CHANNELS} channels; repair or leave it out")


def _is_stream(path: Path) -> bool:
    """Whether reading it would wait for somebody who writes, or never end."""
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _blocks(file: SndFile | FFmpegFile) -> Iterator[np.ndarray]:
    total = 0
    try:
        for block in file.blocks(BLOCK):
            total += len(block)
            yield block
    except TruncatedError as error:
        raise SoundError("truncated audio", str(error)) from error
    except (av.FFmpegError, ValueError) as error:  # damage between packets, or in what they say of frames
        detail = f"decoding stopped after {total / file.samplerate:.1f} s: {error}; repair or leave it out"
        raise SoundError("unreadable audio", detail) from error
    promised = file.promised if isinstance(file, FFmpegFile) else None
    found = total / file.samplerate
    if promised is not None and promised - found > max(0.25, 0.02 * promised):
        raise SoundError("truncated audio", f"header promises {promised:.1f} s, {found:.1f} s can be read")


def _check_samples(channels: np.ndarray, seconds: float) -> None:
    if bad := channels.size - np.count_nonzero(np.isfinite(channels)):
        detail = f"{bad} of the {channels.size} samples from {seconds:.1f} s on are NaN or infinite"
        raise SoundError("non-finite samples", detail)
    if (peak := np.abs(channels).max(initial=0.0)) > LOUDEST:
        detail = f"samples reach {peak:.0f}, but full scale is 1: divide by 32768 if they were 16-bit integers"
        raise SoundError("unusable level", detail)
