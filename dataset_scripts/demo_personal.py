"""A demo corpus of voices that a recogniser gets wrong: each says many sentences, to learn some and test on others.

The voices are those of eSpeak NG at rates and pitches that the other demo corpora do not have. They imitate nobody,
and an average over them says nothing about people.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from dataset_scripts.demo_speakers import check_size, write_speakers
from dataset_scripts.demo_voices import Group, accented, creaky, draw_speaker, shorter_tract, telephone

MOST_UTTERANCES = 1000  # per speaker

GROUPS = {
    "Hasty": Group(("de+m3", "fr-fr+f2", "it+m5"), (205, 235), (25, 75), (30, 80), (0, 0), (18, 26), accented),
    "Foreign": Group(("nl+f4", "sv+m7", "pl+m2"), (140, 170), (30, 70), (30, 70), (1, 4), (18, 26), accented),
    "Hoarse": Group(
        ("en-gb+whisperf", "en-us+whisper", "en-gb-x-gbclan+croak"),
        (110, 150),
        (0, 60),
        (5, 30),
        (2, 6),
        (16, 22),
        creaky,
    ),
    "Small": Group(
        ("en-gb-scotland+f5", "en-029+f3", "en-gb-x-rp+f2"),
        (185, 215),
        (80, 99),
        (60, 90),
        (0, 1),
        (16, 24),
        shorter_tract(1.25, 0.15),
    ),
    "Far": Group(("hi+f4", "hi+m2", "en-029+m6"), (160, 190), (40, 80), (20, 50), (0, 2), (6, 10), telephone),
}


def write_demo_personal(
    folder: str | Path,
    *,
    dev_speakers: int = 1,
    utterances_per_speaker: int = 30,
    seed: int = 0,
    progress: Callable[[Iterator], Iterator] = iter,
) -> list[dict]:
    """Write `Dev/<speaker_id>/<speaker_id>.json` and FLAC files, as `write_demo_corpus` does.

    Args:
        dev_speakers: speakers of each of the groups.
    """
    check_size(1, dev_speakers, utterances_per_speaker, MOST_UTTERANCES)
    speakers = [
        draw_speaker(seed, "Dev", name, group, number)
        for name, group in GROUPS.items()
        for number in range(dev_speakers)
    ]
    return write_speakers(Path(folder), speakers, GROUPS, utterances_per_speaker, seed, progress)
