"""A demo corpus like field recordings, `clean/` and `noisy/` without transcripts, and speech to train a recogniser."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from dataset_scripts.audio_folder import CONDITIONS, TRUTH
from dataset_scripts.demo_sentences import word_sentences
from dataset_scripts.demo_speakers import check_size
from dataset_scripts.demo_voices import Group, Speaker, accented, band_pass, draw_speaker, random_of, speak
from hf_components.runtime import write_json_lines
from hf_components.training import mix

MOST_WORDS = 8  # keeps an utterance below 4 s
BLANKS = ("animal", "color", "device", "feeling", "name", "relative", "room", "weekday")  # 144 words in all
MOST_HEARD, MOST_NEW = 500, 120  # utterances per speaker, and per condition; there are 545 and 261 such sentences
TALKERS = 4  # voices of the babble in a noisy recording
SNR = (15.0, 20.0)  # dB of the babble
BAND = (200.0, 2500.0)  # Hz; band of a noisy recording, like a small loudspeaker

MANNER = {
    "rate": (160, 200),
    "pitch": (30, 70),
    "pitch_range": (30, 60),
    "word_gap": (0, 1),
    "snr": (18, 30),
    "effect": accented,
}
HEARD = Group(
    (
        "en-us+m1",
        "en-us+f2",
        "en-us+m2",
        "en-us+Alicia",
        "en-us+m3",
        "en-us+f1",
        "en-us+m4",
        "en-us+f5",
        "en-us+Michael",
        "en-us+steph",
        "en-us+m7",
        "en-us+Annie",
        "en-us+Mario",
        "en-us+linda",
        "en-us+m5",
        "en-us+f4",
    ),
    **MANNER,
)
NEW = Group(("en-us", "en-us+f3", "en-us+m6", "en-us+belinda"), **MANNER)


def heard_utterances(
    speakers: int, utterances_per_speaker: int, seed: int
) -> Iterator[tuple[Speaker, str, np.ndarray, int]]:
    """Yield (speaker, transcript, int16 samples, sample rate) of utterances to train a recogniser on.

    Voices and sentences differ from those of `write_demo_recordings`. Several speakers may say the same sentence.
    """
    check_size(speakers, 1, utterances_per_speaker, MOST_HEARD)
    for number in range(speakers):
        speaker = draw_speaker(seed, "Train", "Heard", HEARD, number)
        texts = word_sentences("Train", random_of(seed, speaker.id, "sentences"), MOST_WORDS, BLANKS)
        random = random_of(seed, speaker.id, "margins")
        for text, samples, sample_rate in speak(speaker, HEARD, islice(texts, utterances_per_speaker), seed):
            # With margins of equal length, a small model would learn the position.
            begin, end = random.integers(0, sample_rate // 5, 2)
            yield speaker, text, samples[begin : len(samples) - end], sample_rate


def new_utterances(
    condition: str, speakers: int, utterances_per_speaker: int, seed: int
) -> Iterator[tuple[Speaker, str, np.ndarray, int]]:
    """Yield the same of voices for evaluation. "noisy" comes from a small loudspeaker, with babble behind it."""
    texts = word_sentences("Dev", random_of(seed, "Dev", "sentences"), MOST_WORDS, BLANKS)
    skipped = CONDITIONS.index(condition) * MOST_NEW
    own = list(islice(texts, skipped, skipped + speakers * utterances_per_speaker))
    for number in range(speakers):
        speaker = draw_speaker(seed, "Dev", "New", NEW, number)
        part = own[number * utterances_per_speaker : (number + 1) * utterances_per_speaker]
        babble = _babble(seed) if condition == "noisy" else None
        for text, samples, sample_rate in speak(speaker, NEW, part, seed):
            if babble is not None:
                samples = _behind(samples, sample_rate, babble, random_of(seed, speaker.id, text))
            yield speaker, text, samples, sample_rate


def write_demo_recordings(
    folder: str | Path,
    *,
    dev_speakers: int = 4,
    utterances_per_speaker: int = 20,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict]:
    """Write `clean/audio_001.wav …`, `noisy/audio_081.wav …`, and `truth.jsonl` (file, text) to score by.

    The same arguments give the same bytes.

    Args:
        folder: target folder; it is made if needed.
        dev_speakers: speakers per condition, with the same voices in both.
        utterances_per_speaker: utterances per condition, all with different sentences.
        progress: wraps the iterator over conditions.
    Returns:
        one row per condition: split, group, speakers, utterances, minutes, sample_rate.
    Raises:
        UserError: a number is out of range.
    """
    check_size(1, dev_speakers, utterances_per_speaker, MOST_NEW // dev_speakers if dev_speakers > 0 else 1)
    folder = Path(folder)
    truth = []
    rows = {
        name: {
            "split": "test",
            "group": name,
            "speakers": dev_speakers,
            "utterances": 0,
            "minutes": 0.0,
            "sample_rate": 0,
        }
        for name in CONDITIONS
    }
    spoken = [
        (name, *utterance)
        for name in progress(CONDITIONS)
        for utterance in new_utterances(name, dev_speakers, utterances_per_speaker, seed)
    ]
    for condition, _, text, samples, sample_rate in spoken:
        file = f"{condition}/audio_{len(truth) + 1:03d}.wav"
        (folder / condition).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / file, samples, sample_rate, subtype="PCM_16")
        truth.append({"file": file, "text": text})
        row = rows[condition]
        row["utterances"] += 1
        row["minutes"] += len(samples) / sample_rate / 60
        row["sample_rate"] = sample_rate
    write_json_lines(folder / TRUTH, truth)
    return list(rows.values())


def _babble(seed: int) -> list[np.ndarray]:
    """Speech behind a recording: sentences of the training speakers, one long track for each speaker."""
    tracks: dict[str, list[np.ndarray]] = {}
    for speaker, _, samples, _ in heard_utterances(2 * TALKERS, 4, seed + 1):
        tracks.setdefault(speaker.id, []).append(samples.astype(np.float32))
    return [np.concatenate(parts) for parts in tracks.values()]


def _behind(
    samples: np.ndarray, sample_rate: int, tracks: list[np.ndarray], random: np.random.Generator
) -> np.ndarray:
    """Mix `TALKERS` random tracks into the samples, limit the band, and keep the peak; int16."""
    noise = np.zeros(len(samples), np.float32)
    for track in random.permutation(len(tracks))[:TALKERS]:
        start = int(random.integers(len(tracks[track])))
        noise += np.take(tracks[track], np.arange(start, start + len(samples)), mode="wrap")
    mixed = band_pass(mix(samples.astype(np.float32), noise, random.uniform(*SNR)), sample_rate, *BAND)
    return np.round(mixed * (np.abs(samples).max() / np.abs(mixed).max())).astype(np.int16)
