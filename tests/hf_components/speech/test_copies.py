"""Copies of a recording are known by name, bytes or sound; recordings that only look alike are not."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_units import babble

from hf_components.speech.audio import decode
from hf_components.speech.copies import copies_by_name, copies_by_sound, sound_print

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "one, other",
    [
        ("t1.wav", "t1.mp3"),
        ("t1.WAV", "access/t1.ogg"),
        ("t1.wav", "t1 (1).flac"),
        ("t1.wav", "t1 - Copy.mp3"),
        ("t1.wav", "Copy of t1.mp3"),
        ("t1.wav", "t1_copy 2.mp3"),
    ],
)
def test_the_same_name_and_length_with_another_suffix(tmp_path, one, other):
    write(tmp_path, one, b"one")
    write(tmp_path, other, b"the other")
    assert copies_by_name(tmp_path, [one, other], [60.0, 60.1]) == [(0, 1)]
    assert copies_by_name(tmp_path, [one, other], [60.0, 61.0]) == []


def test_equal_bytes_and_nothing_else_by_the_same_suffix(tmp_path):
    files = ["a/1.wav", "b/1.wav", "part (1).wav", "part (2).wav", "copier.wav", "b/other.wav"]
    for number, file in enumerate(files):
        write(tmp_path, file, b"sound %d" % (number % 5))
    assert copies_by_name(tmp_path, files, [60.0] * 6) == [(0, 5)]


def test_the_same_sound_in_any_codec_at_any_level_and_rate(tmp_path):
    """All clips have the same length, as of a recorder that starts a file every minute."""
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", babble(6.0, number), 16_000)
        soundfile.write(tmp_path / f"{number}.mp3", 0.3 * babble(6.0, number), 16_000, format="MP3")
        soundfile.write(tmp_path / f"{number}.ogg", babble(6.0, number), 16_000)
        soundfile.write(tmp_path / f"{number}.flac", np.repeat(babble(6.0, number), 2), 32_000)
    waves = [decode(path) for path in sorted(tmp_path.iterdir())]
    found = copies_by_sound([sound_print(wave, wave) for wave in waves], [len(wave) / 16_000 for wave in waves])
    pairs = set(combinations(range(4), 2))
    assert {tuple(sorted(pair)) for pair in found} == {(4 * n + i, 4 * n + j) for n in range(3) for i, j in pairs}


def test_hum_and_silence_make_no_copies():
    rng = np.random.default_rng(0)
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(48_000) / 16_000)
    waves = [(hum + 0.1 * rng.standard_normal(48_000)).astype(np.float32) for _ in range(4)]
    assert copies_by_sound([sound_print(wave, wave) for wave in waves], [3.0] * 4) == []
    short = np.zeros(20, np.float32)
    assert sound_print(short, short) and copies_by_sound([sound_print(waves[0], short)] * 2, [3.0, 9.0]) == []


def write(root: Path, file: str, content: bytes) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(content)
