"""Embeddings of made speakers: groups differ less than speakers do, and clips of a speaker are alike."""

import numpy as np

from hf_components.moe.clustering import Embeddings


def make_speakers(
    utterances_per_speaker: int = 16,
    speakers: int = 10,
    held_out: int = 4,
    group: float = 1.0,
    speaker: float = 1.3,
    clip: float = 0.2,
    duration: float = 2.0,
    seed: int = 0,
) -> Embeddings:
    """Four groups of speakers in 64 dimensions.

    Args:
        speakers: speakers of each group in "train".
        held_out: speakers of each group in "dev".
        group, speaker, clip: standard deviation in each dimension of what a group, a speaker, and a clip adds.
        duration: what a clip moves along one direction if its log duration is a standard deviation longer.
    """
    random = np.random.default_rng(seed)
    number = np.repeat(np.arange(4 * (speakers + held_out)), utterances_per_speaker)
    groups = number % 4
    lengths = random.normal(size=len(number))
    direction = random.normal(size=64)
    vectors = (
        group * random.normal(size=(4, 64))[groups] + speaker * random.normal(size=(number.max() + 1, 64))[number]
    )
    vectors += clip * random.normal(size=(len(number), 64))
    vectors += duration * np.outer(lengths, direction / np.linalg.norm(direction))
    return Embeddings(
        ids=np.array([f"u{i}" for i in range(len(number))]),
        splits=np.where(number >= 4 * speakers, "dev", "train"),
        speakers=np.char.add("speaker ", number.astype(str)),
        groups=np.array(["adult", "child", "digits", "studio"])[groups],
        durations=np.exp(1 + 0.5 * lengths),
        vectors=vectors.astype(np.float32),
        source={"model": "made", "layer": 2, "pooling": "mean"},
    )
