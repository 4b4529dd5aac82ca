"""A demo corpus in the speaker-JSON layout: synthetic speakers in four groups that are hard in different ways.

The voices are those of eSpeak NG and imitate nobody. The corpus tests the path from recordings to a benchmark on a
machine without real speech. It says nothing about the quality of a model on real speakers.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import soundfile

from dataset_scripts.demo_sentences import sentences
from dataset_scripts.demo_voices import (
    Group,
    Speaker,
    accented,
    creaky,
    draw_speaker,
    random_of,
    shorter_tract,
    speak,
    telephone,
)
from hf_components.runtime import UserError

MOST_UTTERANCES = 1000  # per speaker; far fewer than a split has sentences

GROUPS = {
    "Slow creaky": Group(
        (
            "en-us+croak",
            "en-us+klatt3",
            "en+croak",
            "en-us+grandpa",
            "en+grandma",
            "en-us+m6",
            "en-gb-x-rp+croak",
            "en-us+grandma",
        ),
        (85, 120),
        (0, 25),
        (10, 35),
        (2, 8),
        (20, 30),
        creaky,
    ),
    "Child-like": Group(
        ("en-us+f1", "en-us+f2", "en-us+f3", "en-us+Alicia", "en-us+steph", "en-us+belinda", "en-us+f4", "en-us+f5"),
        (155, 190),
        (65, 85),
        (50, 80),
        (0, 2),
        (20, 30),
        shorter_tract(1.05, 0.15),
    ),
    "Accent": Group(
        (
            "en-gb-scotland+m1",
            "en-029+m3",
            "hi+m5",
            "en-gb-x-gbclan+m4",
            "hi+f1",
            "en-gb-scotland+f4",
            "en-029+m7",
            "en-gb-x-gbcwmd+f2",
        ),
        (145, 180),
        (30, 65),
        (40, 70),
        (0, 2),
        (20, 30),
        accented,
    ),
    "Telephone": Group(
        ("en-us+m1", "en-us+f2", "en+m3", "en-us+Michael", "en+f4", "en-us+m8", "en-us+f5", "en+m7"),
        (145, 175),
        (30, 70),
        (30, 60),
        (0, 3),
        (12, 20),
        telephone,
    ),
}


class DemoTable:
    """What a demo corpus holds: a row per split and group."""

    def __init__(self):
        self.rows: dict[tuple[str, str], dict] = {}

    def add(self, split: str, group: str, utterances: int, seconds: float, sample_rate: int) -> None:
        """Add a speaker."""
        sums = {"speakers": 0, "utterances": 0, "minutes": 0.0, "sample_rate": sample_rate}
        row = self.rows.setdefault((split, group), {"split": split, "group": group, **sums})
        row["speakers"] += 1
        row["utterances"] += utterances
        row["minutes"] += seconds / 60


def write_demo_corpus(
    folder: str | Path,
    *,
    train_speakers: int = 4,
    dev_speakers: int = 2,
    utterances_per_speaker: int = 16,
    seed: int = 0,
    progress: Callable[[Iterator], Iterator] = iter,
) -> list[dict]:
    """Write `Train|Dev/<speaker_id>/<speaker_id>.json` and the speaker's FLAC files beside it.

    The same arguments give the same bytes. More speakers or utterances do not change the other recordings: a speaker
    is a pure function of (seed, split, group, number), and a recording one of the speaker and its position.

    Args:
        folder: target folder; it is made if needed.
        train_speakers, dev_speakers: number of speakers per group.
        utterances_per_speaker: utterances, all with different sentences.
        progress: wraps the iterator over speakers.
    Returns:
        one row per split and group: split, group, speakers, utterances, minutes, sample_rate.
    Raises:
        UserError: a number is out of range.
    """
    check_size(train_speakers, dev_speakers, utterances_per_speaker, MOST_UTTERANCES)
    speakers = [
        draw_speaker(seed, split, name, group, number)
        for name, group in GROUPS.items()
        for split, count in (("Train", train_speakers), ("Dev", dev_speakers))
        for number in range(count)
    ]
    return write_speakers(Path(folder), speakers, GROUPS, utterances_per_speaker, seed, progress)


def write_speakers(
    folder: Path,
    speakers: list[Speaker],
    groups: dict[str, Group],
    utterances: int,
    seed: int,
    progress: Callable[[Iterator], Iterator],
) -> list[dict]:
    """Write the files of speakers; returns one row per split and group, see `write_demo_corpus`."""
    table = DemoTable()
    for speaker in progress(speakers):
        seconds, sample_rate = _write_speaker(folder, speaker, groups[speaker.group], utterances, seed)
        table.add(speaker.split, speaker.group, utterances, seconds, sample_rate)
    return [table.rows[key] for key in sorted(table.rows, reverse=True)]


def check_size(train_speakers: int, dev_speakers: int, utterances_per_speaker: int, most_utterances: int) -> None:
    """Raise UserError if a number is out of range."""
    for name, value, most in (
        ("train_speakers", train_speakers, 100),
        ("dev_speakers", dev_speakers, 100),
        ("utterances_per_speaker", utterances_per_speaker, most_utterances),
    ):
        if not 1 <= value <= most:
            raise UserError(f"`{name}` must lie in [1, {most}], got {value}")


def _write_speaker(folder: Path, speaker: Speaker, group: Group, utterances: int, seed: int) -> tuple[float, int]:
    """Write a speaker's files. Return the seconds of speech and their sample rate."""
    place = folder / speaker.split / speaker.id
    place.mkdir(parents=True, exist_ok=True)
    texts = islice(sentences(speaker.split, random_of(seed, speaker.id, "sentences")), utterances)
    files = []
    seconds = 0.0
    for index, (text, samples, sample_rate) in enumerate(speak(speaker, group, texts, seed)):
        name = f"{speaker.id}_{index:04d}.flac"
        soundfile.write(place / name, samples, sample_rate, subtype="PCM_16")
        files.append({"Filename": name, "Prompt": {"Transcript": text}})
        seconds += len(samples) / sample_rate
    voice = {key: value for key, value in asdict(speaker).items() if key not in ("id", "split", "group")}
    content = {"Contributor_ID": speaker.id, "Etiology": speaker.group, "Voice": voice, "Files": files}
    (place / f"{speaker.id}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return seconds, sample_rate
