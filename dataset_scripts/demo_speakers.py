"""A demo corpus in the speaker-JSON layout: synthetic speakers in four groups that are hard in different ways.

The voices are eSpeak NG's and imitate nobody: the corpus proves the path from recordings to a benchmark on a machine
without any speech at hand, not the quality of a model on real speakers.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from dataset_scripts.demo_sentences import sentences
from dataset_scripts.espeak_ng import EspeakNg
from hf_components.errors import UserError

MOST_UTTERANCES = 1000  # per speaker; far fewer than a split has sentences


@dataclass(frozen=True)
class Group:
    """What the speakers of a group have in common; a pair of numbers is the range a speaker's value is drawn from."""

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
    strength: float  # of the group's effect, 0 to 1


def creaky(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """Tremor of the loudness at 4 to 6 Hz, and consonants dulled by a low-pass filter."""
    time = np.arange(len(samples)) / sample_rate
    tremor = 1 - (0.2 + 0.3 * speaker.strength) * (0.5 + 0.5 * np.sin(2 * np.pi * (4 + 2 * speaker.strength) * time))
    return _band(samples * tremor, sample_rate, 0, 4500 - 1500 * speaker.strength), sample_rate


def child_like(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """Formants of a shorter vocal tract: played 1.05 to 1.2 times faster."""
    return soxr.resample(samples, sample_rate * (1.05 + 0.15 * speaker.strength), sample_rate), sample_rate


def accented(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """The accent is in the voice."""
    return samples, sample_rate


def telephone(samples: np.ndarray, sample_rate: int, speaker: Speaker) -> tuple[np.ndarray, int]:
    """300 to 3400 Hz at 8 kHz, in the 256 steps of mu-law."""
    narrow = _band(soxr.resample(samples, sample_rate, 8000), 8000, 300, 3400)
    narrow /= max(1e-9, np.abs(narrow).max())
    compressed = np.round(127 * np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)) / 127
    return np.sign(compressed) * np.expm1(np.abs(compressed) * np.log(256)) / 255, 8000


GROUPS = {
    "Slow creaky": Group(("en-us+croak", "en-us+klatt3", "en+croak", "en-us+grandpa", "en+grandma", "en-us+m6",
                          "en-gb-x-rp+croak", "en-us+grandma"),
                         (85, 120), (0, 25), (10, 35), (2, 8), (20, 30), creaky),
    "Child-like": Group(("en-us+f1", "en-us+f2", "en-us+f3", "en-us+Alicia", "en-us+steph", "en-us+belinda", "en-us+f4",
                         "en-us+f5"),
                        (155, 190), (65, 85), (50, 80), (0, 2), (20, 30), child_like),
    "Accent": Group(("en-gb-scotland+m1", "en-029+m3", "hi+m5", "en-gb-x-gbclan+m4", "hi+f1", "en-gb-scotland+f4",
                     "en-029+m7", "en-gb-x-gbcwmd+f2"),
                    (145, 180), (30, 65), (40, 70), (0, 2), (20, 30), accented),
    "Telephone": Group(("en-us+m1", "en-us+f2", "en+m3", "en-us+Michael", "en+f4", "en-us+m8", "en-us+f5", "en+m7"),
                       (145, 175), (30, 70), (30, 60), (0, 3), (12, 20), telephone),
}


def write_demo_corpus(folder: str | Path, *, train_speakers: int = 4, dev_speakers: int = 2, utterances_per_speaker: int = 16,
                      seed: int = 0, progress: Callable[[Iterator], Iterator] = iter) -> list[dict]:
    """Write `Train|Dev/<speaker_id>/<speaker_id>.json` and the speaker's FLAC files beside it.

    The same arguments give the same bytes. More speakers or utterances leave the other recordings alone: a speaker is a pure
    function of (seed, split, group, number), and each recording of the speaker and its position.

    Args:
        folder: exists, or is made.
        train_speakers, dev_speakers: per group.
        utterances_per_speaker: each a sentence of its own.
        progress: wraps the iterator over speakers.
    Returns:
        one row per split and group: split, group, speakers, utterances, minutes, sample_rate.
    Raises:
        UserError: a number is out of range.
    """
    for name, value, most in (("train_speakers", train_speakers, 100), ("dev_speakers", dev_speakers, 100),
                              ("utterances_per_speaker", utterances_per_speaker, MOST_UTTERANCES)):
        if not 1 <= value <= most:
            raise UserError(f"`{name}` must lie in [1, {most}], got {value}")
    speakers = [draw_speaker(seed, split, group, number) for group in GROUPS
                for split, count in (("Train", train_speakers), ("Dev", dev_speakers)) for number in range(count)]
    rows: dict[tuple, dict] = {}
    for speaker in progress(speakers):
        seconds, sample_rate = _write_speaker(Path(folder), speaker, utterances_per_speaker, seed)
        row = rows.setdefault((speaker.split, speaker.group), {
            "split": speaker.split, "group": speaker.group, "speakers": 0, "utterances": 0, "minutes": 0.0,
            "sample_rate": sample_rate})
        row["speakers"] += 1
        row["utterances"] += utterances_per_speaker
        row["minutes"] += seconds / 60
    return [rows[key] for key in sorted(rows, reverse=True)]


def draw_speaker(seed: int, split: str, group: str, number: int) -> Speaker:
    """The speaker `number` (from 0) of a group in a split; up to four per split share no voice with the other one."""
    of, random = GROUPS[group], _random(seed, split, group, number)
    voices = of.voices if split == "Train" else of.voices[::-1]

    def within(bounds: tuple[int, int]) -> int:
        return int(random.integers(bounds[0], bounds[1], endpoint=True))

    return Speaker(f"{group.upper().replace(' ', '-')}-{split.upper()}-{number:02d}", split, group,
                   voices[number % len(voices)], within(of.rate), within(of.pitch), within(of.pitch_range),
                   within(of.word_gap), within(of.snr), round(float(random.random()), 3))


def speak(speaker: Speaker, utterances: int, seed: int) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield (sentence, int16 samples, sample rate) for each utterance of the speaker."""
    texts = islice(sentences(speaker.split, _random(seed, speaker.id, "sentences")), utterances)
    with EspeakNg() as espeak:
        for index, text in enumerate(texts):
            spoken = espeak.synthesise(text, speaker.voice, speaker.rate, speaker.pitch, speaker.pitch_range,
                                       speaker.word_gap)
            samples, sample_rate = GROUPS[speaker.group].effect(spoken / 32768, espeak.sample_rate, speaker)
            samples = _add_noise(samples, sample_rate // 5, speaker.snr, _random(seed, speaker.id, index))
            yield text, np.round(samples * (0.5 / np.abs(samples).max()) * 32767).astype(np.int16), sample_rate


def _write_speaker(folder: Path, speaker: Speaker, utterances: int, seed: int) -> tuple[float, int]:
    """Returns the seconds of speech written, and their sample rate."""
    place = folder / speaker.split / speaker.id
    place.mkdir(parents=True, exist_ok=True)
    files, seconds = [], 0.0
    for index, (text, samples, sample_rate) in enumerate(speak(speaker, utterances, seed)):
        name = f"{speaker.id}_{index:04d}.flac"
        soundfile.write(place / name, samples, sample_rate, subtype="PCM_16")
        files.append({"Filename": name, "Prompt": {"Transcript": text}})
        seconds += len(samples) / sample_rate
    voice = {key: value for key, value in asdict(speaker).items() if key not in ("id", "split", "group")}
    content = {"Contributor_ID": speaker.id, "Etiology": speaker.group, "Voice": voice, "Files": files}
    (place / f"{speaker.id}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return seconds, sample_rate


def _add_noise(samples: np.ndarray, margin: int, snr: float, random: np.random.Generator) -> np.ndarray:
    """Pink noise `snr` dB below the mean power of the utterance, beginning and ending `margin` samples beyond it."""
    padded = np.pad(samples, margin)
    spectrum = np.fft.rfft(random.standard_normal(len(padded)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), len(padded))
    return padded + noise * np.sqrt(np.mean(samples**2) / np.mean(noise**2) / 10 ** (snr / 10))


def _band(samples: np.ndarray, sample_rate: int, low: float, high: float) -> np.ndarray:
    """The band between `low` and `high` Hz, with the slopes of a sixth-order Butterworth filter and no delay."""
    frequency = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    gain = 1 / np.sqrt(1 + (frequency / high) ** 12)
    if low:
        gain /= np.sqrt(1 + (low / np.maximum(frequency, 1)) ** 12)
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples))


def _random(*key) -> np.random.Generator:
    """A generator that is a pure function of `key` (`hash` of strings differs between processes)."""
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))
