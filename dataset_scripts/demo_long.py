"""A demo corpus of long recordings: narrators who read sentences with pauses between them, no transcripts."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from dataset_scripts.demo_sentences import sentences
from dataset_scripts.demo_speakers import check_size
from dataset_scripts.demo_voices import Group, accented, add_noise, draw_speaker, random_of, speak
from hf_components.runtime import UserError, write_json_lines
from hf_components.speech import encode_flac

RECORDINGS = 4  # of each narrator
MOST = 400  # sentences of each narrator
PAUSE = (0.7, 1.5)  # seconds between sentences
SNR = 45.0  # dB; the noise of the room stays below -60 dB of full scale
SENTENCES = "sentences.jsonl"

NARRATORS = Group(
    ("en-us+m3", "en-us+f2", "en-us+Michael", "en-us+Alicia"),
    (150, 175),
    (35, 60),
    (35, 55),
    (0, 1),
    (60, 60),
    accented,
)


def write_demo_long(
    folder: str | Path,
    *,
    train_speakers: int = 1,
    utterances_per_speaker: int = 72,
    seed: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict]:
    """Write `chapter_01.flac …` and `sentences.jsonl` (file, start and end in seconds, text) to score by.

    Each of several narrators has a folder of their own. The same arguments give the same bytes.

    Args:
        folder: target folder; it is made if needed.
        train_speakers: number of narrators.
        utterances_per_speaker: sentences of each narrator in all recordings, about 3.3 s each with the pause.
        progress: wraps the iterator over narrators.
    Returns:
        one row: split, group, speakers, utterances, minutes, sample_rate.
    Raises:
        UserError: a number is out of range.
    """
    check_size(train_speakers, 1, utterances_per_speaker, MOST)
    if utterances_per_speaker < RECORDINGS:
        raise UserError(f"`utterances_per_speaker` must lie in [{RECORDINGS}, {MOST}], got {utterances_per_speaker}")
    folder = Path(folder)
    lines = []
    row = {
        "split": "-",
        "group": "Narrators",
        "speakers": train_speakers,
        "minutes": 0.0,
        "sample_rate": 0,
        "utterances": train_speakers * utterances_per_speaker,
    }
    for narrator in progress(
        [draw_speaker(seed, "Train", "Narrator", NARRATORS, number) for number in range(train_speakers)]
    ):
        texts = islice(sentences("Train", random_of(seed, narrator.id, "sentences")), utterances_per_speaker)
        spoken = list(speak(narrator, NARRATORS, texts, seed))
        for number in range(RECORDINGS):
            file = Path(narrator.id if train_speakers > 1 else "", f"chapter_{number + 1:02d}.flac")
            part = spoken[number * len(spoken) // RECORDINGS : (number + 1) * len(spoken) // RECORDINGS]
            samples, sample_rate, spans = _recording(part, random_of(seed, narrator.id, "recording", number))
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(encode_flac(samples, sample_rate))
            lines += [
                {"file": file.as_posix(), "start": start, "end": end, "text": text}
                for (start, end), (text, *_) in zip(spans, part, strict=True)
            ]
            row["minutes"] += len(samples) / sample_rate / 60
            row["sample_rate"] = sample_rate
    write_json_lines(folder / SENTENCES, lines)
    return [row]


def _recording(spoken: list[tuple], random: np.random.Generator) -> tuple[np.ndarray, int, list[tuple[float, float]]]:
    """Join sentences in a quiet room. Return the samples, their rate, and the start and end of each sentence."""
    sample_rate = spoken[0][2]
    margin = round(PAUSE[0] * sample_rate)
    parts = []
    spans = []
    position = margin
    for _, samples, _ in spoken:
        voice = samples[sample_rate // 5 : -(sample_rate // 5)] / 32768  # without the margins
        spans.append((round(position / sample_rate, 3), round((position + len(voice)) / sample_rate, 3)))
        pause = np.zeros(round(random.uniform(*PAUSE) * sample_rate))
        parts += [voice, pause]
        position += len(voice) + len(pause)
    return add_noise(np.concatenate(parts[:-1]), margin, SNR, random), sample_rate, spans
