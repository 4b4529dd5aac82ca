"""Synthetic voices of eSpeak NG: speakers drawn at random from a group, and their speech."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soxr

from hf_components.speech import EspeakNg


@dataclass(frozen=True)
class Group:
    """What the speakers of a group share; a pair of numbers is the range from which a speaker's value is drawn."""

    voices: tuple[str, ...]  # Train takes them from the front, Dev from the back
    rate: tuple[int, int]  # words per minute
    pitch: tuple[int, int]  # 0 to 100
    pitch_range: tuple[int, int]  # 0 to 100
    word_gap: tuple[int, int]  # units of 10 ms
    snr: tuple[int, int]  # dB of pink noise
    effect: Callable[[np.ndarray, int, "Speaker"], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Speaker:
    id: str
    split: str
    group: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    word_gap: int
    snr: int
    strength: float  # strength of the group's effect, 0 to 1


def creaky(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """Add a tremor of the loudness at 4 to 6 Hz, and dull the consonants with a low-pass filter."""
    time = np.arange(len(samples)) / sample_rate
    tremor = 1 - (0.2 + 0.3 * speaker.strength) * (0.5 + 0.5 * np.sin(2 * np.pi * (4 + 2 * speaker.strength) * time))
    return band_pass(samples * tremor, sample_rate, 0, 4500 - 1500 * speaker.strength), sample_rate


def shorter_tract(least: float, more: float) -> Callable[[np.ndarray, int, Speaker], tuple[np.ndarray, int]]:
    """Formants of a shorter vocal tract: an effect that plays speech `least` to `least + more` times faster."""

    def effect(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
        return soxr.resample(samples, sample_rate * (least + more * speaker.strength), sample_rate), sample_rate

    return effect


def accented(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """Change nothing: the accent is in the voice."""
    return samples, sample_rate


def telephone(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """Limit to 300 to 3400 Hz at 8 kHz, in the 256 steps of mu-law."""
    narrow = band_pass(soxr.resample(samples, sample_rate, 8000), 8000, 300, 3400)
    narrow /= max(1e-9, np.abs(narrow).max())
    compressed = np.round(127 * np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)) / 127
    return np.sign(compressed) * np.expm1(np.abs(compressed) * np.log(256)) / 255, 8000


def draw_speaker(seed: int, split: str, name: str, group: Group, number: int) -> Speaker:
    """The speaker `number` (from 0) of a group in a split; splits share no voice while the voices last."""
    random = random_of(seed, split, name, number)
    voices = group.voices if split == "Train" else group.voices[::-1]

    def within(bounds: tuple[int, int]) -> int:
        return int(random.integers(bounds[0], bounds[1], endpoint=True))

    return Speaker(
        f"{name.upper().replace(' ', '-')}-{split.upper()}-{number:02d}",
        split,
        name,
        voices[number % len(voices)],
        within(group.rate),
        within(group.pitch),
        within(group.pitch_range),
        within(group.word_gap),
        within(group.snr),
        round(float(random.random()), 3),
    )


def speak(speaker: Speaker, group: Group, texts: Iterable[str], seed: int) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield (text, int16 samples, sample rate) for each text that the speaker says."""
    with EspeakNg() as espeak:
        for index, text in enumerate(texts):
            spoken = espeak.synthesise(
                text, speaker.voice, speaker.rate, speaker.pitch, speaker.pitch_range, speaker.word_gap
            )
            samples, sample_rate = group.effect(spoken / 32768, espeak.sample_rate, speaker)
            samples = add_noise(samples, sample_rate // 5, speaker.snr, random_of(seed, speaker.id, index))
            yield text, np.round(samples * (0.5 / np.abs(samples).max()) * 32767).astype(np.int16), sample_rate


def random_of(*key) -> np.random.Generator:
    """A generator that depends on `key` only (`hash` of strings differs between processes)."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def add_noise(samples: np.ndarray, margin: int, snr: float, random: np.random.Generator) -> np.ndarray:
    """Add pink noise `snr` dB below the mean power, from `margin` samples before the utterance to as many after it."""
    padded = np.pad(samples, margin)
    spectrum = np.fft.rfft(random.standard_normal(len(padded)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(padded))
    return padded + noise * np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr / 10))


def band_pass(samples: np.ndarray, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Pass the band from `low` to `high` Hz, with slopes of a sixth-order Butterworth filter and no delay."""
    frequency = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    gain = 1 / np.sqrt(1 + (frequency / high) ** 12)
    if low:
        gain /= np.sqrt(1 + (low / np.maximum(frequency, 1)) ** 12)
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))
