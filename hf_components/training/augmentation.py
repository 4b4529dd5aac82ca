"""Augmentation by speed, noise and SpecAugment. Every random choice depends only on seed, epoch and utterance id."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from hf_components.runtime import UserError, files_below, flag
from hf_components.speech import SAMPLING_RATE, AudioError, change_speed, decode, read_duration

NOISES = ("gaussian", "recordings")
MEL_BINS = 80
SAMPLES_PER_FRAME = SAMPLING_RATE // 100  # unit of time masks, the frame of Whisper's features
# Parts of the seed, so that different choices for one utterance use different random numbers; SpecAugment has none.
WAVEFORM = 1
CONCATENATION = 2
SECOND_MASK = 3


class Masks(NamedTuple):
    """What SpecAugment masks: number and greatest size (in mel frames, in mel bins) of the masks; 0 masks nothing."""

    time_masks: int = 0
    time_mask_length: int = 40
    mel_masks: int = 0
    mel_mask_width: int = 10


@dataclass
class AugmentationArguments:
    """Augmentation of training data, off by default; recordings in evaluation are never changed.

    Every utterance gets one of the speeds, which also changes the pitch, and at most one kind of noise per epoch, both
    at random. An utterance may be joined with another one of its speaker first, see `Concatenation`.
    """

    time_masks: int = flag("SpecAugment: time masks per utterance, such as 2", default=0, min=0)
    time_mask_length: int = flag(
        "SpecAugment: longest time mask in mel frames (10 ms)", default=40, min=1, needs="time_masks"
    )
    mel_masks: int = flag("SpecAugment: masks of mel bins per utterance, such as 2", default=0, min=0)
    mel_mask_width: int = flag("SpecAugment: widest mask in mel bins", default=10, min=1, needs="mel_masks")
    concatenate: float = flag(
        "share of utterances that are followed by another one of the same known speaker, in one clip",
        default=0.0,
        min=0,
        max=1,
    )
    concatenate_seconds: float = flag(
        "longest clip that is joined from two", default=15.0, above=0, max=30, needs="concatenate"
    )
    speed_factors: list[float] = flag("speeds to choose from, such as 0.9 1.0 1.1", default=[], min=0.5, max=2)
    noise: list[str] = flag(f"kinds of noise to choose from: {', '.join(NOISES)}", default=[], choices=NOISES)
    noise_probability: float = flag(
        "share of utterances with noise, if --noise is given", default=0.5, min=0, max=1, needs="noise"
    )
    noise_snr: list[float] = flag(
        "lowest and highest signal-to-noise ratio, dB", default=[5.0, 20.0], min=-50, max=100, needs="noise"
    )
    noise_dir: str | None = flag(
        "folder of sound files (with subfolders) for the noise `recordings`",
        default=None,
        needs={"noise": "recordings"},
    )

    def check_augmentation(self) -> None:
        """Raise UserError for values that do not fit together."""
        if len(self.noise_snr) != 2 or self.noise_snr[0] > self.noise_snr[1]:
            given = " ".join(map(str, self.noise_snr))
            raise UserError(f"noise_snr must be the lowest and the highest ratio in dB, as in 5 20; got {given}")
        if ("recordings" in self.noise) != bool(self.noise_dir):
            given = f"noise {' '.join(self.noise) or 'of no kind'} and noise_dir {self.noise_dir}"
            raise UserError(f"noise recordings and noise_dir go together, got {given}; give both or neither")


class WaveformAugmentation:
    """Speed perturbation (Ko et al. 2015, "Audio augmentation for speech recognition"), then additive noise.

    Args:
        args: kinds and amounts of augmentation.
        seed: seed of the random numbers, used together with epoch and id.
        longest: longest input of the model in seconds; a slower clip does not become longer than this.
    Raises:
        UserError: `noise_dir` holds no sound file.
    """

    def __init__(self, args: AugmentationArguments, seed: int, longest: float):
        self.args = args
        self.seed = seed
        self.longest = longest
        self.recordings = find_recordings(args.noise_dir) if args.noise_dir else []

    def __call__(self, waveform: np.ndarray, epoch: int, utterance_id: str) -> np.ndarray:
        """The augmented version of a waveform (samples,) in this epoch: float32 (samples / speed,)."""
        random = draws_of(self.seed, epoch, utterance_id, WAVEFORM)
        factors = [
            factor for factor in self.args.speed_factors if len(waveform) <= factor * self.longest * SAMPLING_RATE
        ]
        if factors:
            waveform = change_speed(waveform, float(random.choice(factors)))
        if self.args.noise and random.random() < self.args.noise_probability:
            if random.choice(self.args.noise) == "gaussian":
                noise = random.standard_normal(len(waveform))
            else:
                recording = _decode_noise(self.recordings[random.integers(len(self.recordings))])
                noise = _cut(recording, len(waveform), random)
            waveform = mix(waveform, noise, random.uniform(*self.args.noise_snr))
        return waveform


def draws_of(seed: int, epoch: int, utterance_id: str, *stream: int) -> np.random.Generator:
    """The random generator of one utterance in one epoch; each `stream` has independent numbers."""
    return np.random.default_rng([seed, epoch, zlib.crc32(utterance_id.encode()), *stream])


def mix(waveform: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise `(samples,)` at `snr` dB, the ratio of mean powers. If either is silent, nothing changes."""
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise_power = np.mean(np.square(noise, dtype=np.float64))
    if power == 0 or noise_power == 0:
        return waveform
    scale = np.sqrt(power / noise_power * 10 ** (-snr / 10))
    return (waveform + scale * noise).astype(np.float32)


def find_recordings(folder: str | Path) -> list[Path]:
    """The sound files below a folder, sorted by path. Raises UserError if there is none."""
    files = sorted(path for path in files_below(folder) if path.is_file() and _is_sound(path))
    if not files:
        raise UserError(f"noise_dir must be a folder with sound files, and {folder} holds none")
    return files


def spec_augment(features: torch.Tensor, real_frames: int, random: np.random.Generator, masks: Masks) -> None:
    """Mask parts of `features (n_mels, frames)` with their mean, in place (Park et al. 2019, arXiv 1904.08779).

    Args:
        real_frames: number of frames before the padding, which is not changed.
    """
    mean = features[:, :real_frames].mean()
    for _ in range(masks.time_masks):
        # At most a fifth of the clip, so that short words are not lost.
        length = int(random.integers(0, min(masks.time_mask_length, real_frames // 5) + 1))
        start = int(random.integers(0, real_frames - length + 1))
        features[:, start : start + length] = mean
    for _ in range(masks.mel_masks):
        width = int(random.integers(0, masks.mel_mask_width + 1))
        start = int(random.integers(0, features.shape[0] - width + 1))
        features[start : start + width, :real_frames] = mean


def mask_waveform(waveform: np.ndarray, random: np.random.Generator, masks: Masks) -> np.ndarray:
    """SpecAugment for models with waveform input: silence parts and frequency bands of `(samples,)`.

    It is the same as SpeechBrain's `DropChunk` and `DropFreq` (Ravanelli et al. 2021, arXiv 2106.04624).

    Args:
        masks: a frame has 10 ms, and a bin is an 80th of the mel scale up to 8 kHz.
    """
    if masks.mel_masks:
        spectrum = np.fft.rfft(waveform)
        frequencies = np.fft.rfftfreq(len(waveform), 1 / SAMPLING_RATE)
        edges = mel_to_hertz(np.linspace(0, hertz_to_mel(SAMPLING_RATE / 2, "slaney"), MEL_BINS + 1), "slaney")
        for _ in range(masks.mel_masks):
            width = int(random.integers(0, masks.mel_mask_width + 1))
            low = int(random.integers(0, MEL_BINS - width + 1))
            spectrum[(frequencies >= edges[low]) & (frequencies < edges[low + width])] = 0
        waveform = np.fft.irfft(spectrum, len(waveform)).astype(np.float32)
    else:
        waveform = waveform.copy()
    frames = len(waveform) // SAMPLES_PER_FRAME
    samples = SAMPLES_PER_FRAME
    for _ in range(masks.time_masks):
        length = int(random.integers(0, min(masks.time_mask_length, frames // 5) + 1))
        start = int(random.integers(0, frames - length + 1))
        waveform[start * samples : (start + length) * samples] = 0
    return waveform


@lru_cache(maxsize=64)
def _decode_noise(path: Path) -> np.ndarray:
    return decode(path)


def _cut(noise: np.ndarray, samples: int, random: np.random.Generator) -> np.ndarray:
    """A part of that length from a random start; at the end of the noise it continues at the beginning."""
    start = int(random.integers(len(noise)))
    return np.take(noise, np.arange(start, start + samples), mode="wrap")


def _is_sound(path: Path) -> bool:
    try:
        return read_duration(path) > 0
    except AudioError:
        return False
