"""Decode, encode and resample audio, and compute log-mel features. Sound files are opened by `decoding`."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from transformers import WhisperFeatureExtractor

from hf_components.decoding import apart, reading
from hf_components.decoding.reading import Block, SoundError
from hf_components.runtime import UserError

SAMPLING_RATE = 16_000
# Suffixes of recordings. Only reading a file shows whether it can be read.
SOUND_SUFFIXES = frozenset(
    """.3g2 .3gp .3gpp .3gpp2 .aac .ac3 .adts .aif .aifc .aiff .amr .ape .asf .au .avi .awb .bwf .caf .ds2 .dsf
    .dss .dts .dvf .eac3 .f4a .f4v .flac .flv .gsm .m2ts .m4a .m4b .m4p .m4r .m4v .mka .mkv .mov .mp1 .mp2 .mp3
    .mp4 .mpc .mpeg .mpg .mpga .msv .mts .nist .oga .ogg .ogv .opus .pcm .qt .ra .raw .rf64 .rm .snd .sph .spx
    .tta .voc .vox .w64 .wav .wave .weba .webm .wma .wmv .wv""".split()  # noqa: SIM905
)
LONGEST = 6 * 3600.0  # seconds that are decoded at once, 1.4 GB; hours of silence are small files


class AudioError(UserError):
    """A recording that cannot be used.

    Attributes:
        reason: "unreadable audio", "empty audio", "truncated audio", "non-finite samples", "unusable level" or
            "too long".
        detail: details of the problem.
    """

    def __init__(self, name: str, reason: str = "", detail: str = ""):
        # One argument with the whole text comes from a `DataLoader`, which raises its worker's error anew, or from a
        # transcript, which has the text alone.
        super().__init__(f"{name}: {reason}: {detail}" if reason else name)
        self.name = name
        self.reason = reason
        self.detail = detail

    @property
    def problem(self) -> str:
        """What is wrong, without the name of the recording."""
        return f"{self.reason}: {self.detail}"

    def __reduce__(self):  # for workers that send it to the main process; by default only one argument would survive
        return type(self), (self.name, self.reason, self.detail)


def decode(
    source: str | Path | bytes,
    sampling_rate: int = SAMPLING_RATE,
    name: str | None = None,
    longest: float = LONGEST,
    is_ours: bool = False,
) -> np.ndarray:
    """Read a whole recording, mix its channels down and resample it.

    A process apart does so: if a decoder crashes, hangs or fills its memory, this recording is an error and no more.

    Args:
        source: path or bytes of a sound file in any format of libsndfile or FFmpeg (WAV, FLAC, MP3, OGG, M4A, ...).
        sampling_rate: sampling rate of the result in Hz.
        name: name of the recording in error messages; the path by default.
        longest: seconds; no more are held in memory.
        is_ours: this project has encoded it, so that it is decoded in this process, which is faster.
    Returns:
        float32 waveform (samples,) in [-1, 1].
    Raises:
        AudioError: the file is not readable as audio, is empty, is shorter than its header says, has NaN or infinite
            samples, has float samples far above full scale, its channels cancel each other, or it is too long.
    """
    blocks = []
    room = longest * sampling_rate
    for block in stream(source, sampling_rate, name, is_ours):
        blocks.append(block.waveform)
        room -= len(block.waveform)
        if room < 0:
            detail = f"more than {longest / 3600:g} h, which do not fit into the memory; cut it into parts"
            raise AudioError(name or _name(source), "too long", detail)
    return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))


def stream(
    source: str | Path | bytes, sampling_rate: int = SAMPLING_RATE, name: str | None = None, is_ours: bool = False
) -> Iterator[Block]:
    """Decode block by block, in constant memory. The joined blocks are bit for bit the result of `decode`.

    An error at the end of a recording is raised only there, after blocks were yielded.
    """
    decoder = reading if is_ours else apart
    with _named(source, name):
        yield from decoder.stream(_place(source), sampling_rate)


def read_duration(source: str | Path | bytes, name: str | None = None) -> float:
    """The length in seconds given by the header. Raises AudioError if the file is empty or not readable as audio."""
    with _named(source, name):
        return apart.read_duration(_place(source))


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Change tempo and pitch of `(samples,)` by `factor`; the result has `(samples / factor,)`."""
    if factor == 1:
        return waveform
    return soxr.resample(waveform, factor * SAMPLING_RATE, SAMPLING_RATE)


def encode_flac(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """Encode a float waveform (samples,) as 16-bit mono FLAC; samples outside [-1, 1] are clipped.

    Audio decoded from 16 bits at the same rate is restored bit for bit.
    """
    return _encode(waveform, sampling_rate, "FLAC")


def encode_wav(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> bytes:
    """The same as `encode_flac` but as WAV, which every browser and editor plays."""
    return _encode(waveform, sampling_rate, "WAV")


def encode_wav_file(source: Path, file: Path) -> Path:
    """Write a recording as 16-bit mono WAV to `file`, block by block, and return `file`. Raises AudioError."""
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, channels=1, subtype="PCM_16") as written:
        for block in stream(source):
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


@contextlib.contextmanager
def _named(source: str | Path | bytes, name: str | None) -> Iterator[None]:
    """Raise AudioError with the name of the recording for what is wrong with it."""
    try:
        yield
    except SoundError as error:
        raise AudioError(name or _name(source), error.reason, error.detail) from error


def _name(source: str | Path | bytes) -> str:
    return "audio bytes" if isinstance(source, bytes) else str(source)


def _place(source: str | Path | bytes) -> str | bytes:
    return source if isinstance(source, bytes) else str(Path(source).absolute())
