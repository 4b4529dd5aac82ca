"""Voices of a resynthesis: which other voice speaks a segment, and which speaker it is nearer to."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset

from hf_components.speech.audio import encode_flac, encode_wav
from hf_components.units.resynthesis import voices
from hf_components.units.resynthesis.voices import OTHER_VOICE, compare_voices, nearness, other_voices, sides_of

pytestmark = pytest.mark.unit

PITCH = {"anna": 400, "ben": 100, "carl": 200, "unknown": 300}
LOW, HIGH = np.eye(2)


def tone(frequency: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(8000) / 16_000)).astype(np.float32)


def corpus(*speakers: str) -> Dataset:
    rows = [
        {
            "id": f"{speaker}_{number}",
            "speaker_id": speaker,
            "group": "tones",
            "audio": {"bytes": encode_flac(tone(PITCH[speaker])), "path": None},
        }
        for number, speaker in enumerate(speakers)
    ]
    return Dataset.from_list(rows).cast_column("audio", Audio(16_000, decode=False))


class PitchEncoder:
    """Embeds a tone by its number of crossings of zero: the same pitch has a cosine of 1."""

    missing = None

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        angle = np.count_nonzero(np.diff(np.signbit(waveform))) / 400 * np.pi / 2
        return np.array([np.cos(angle), np.sin(angle)])


def row_of(folder: Path, name: str, speaker: str, other: str | None = None, spoken: float = 0) -> dict:
    row = {"id": name, "speaker_id": speaker, "original": f"{name}_o.wav", "resynthesis": f"{name}_r.wav"}
    for side in ("original", "resynthesis"):
        (folder / row[side]).write_bytes(encode_wav(tone(PITCH[speaker])))
    if other:
        row |= {"other_voice": other, "in_other_voice": f"{name}_x.wav"}
        (folder / row["in_other_voice"]).write_bytes(encode_wav(tone(spoken)))
    return row


def test_the_other_voice_is_never_the_own_and_depends_on_the_segment_and_the_seed_alone():
    split = corpus(*["anna", "ben", "carl"] * 10)
    chosen = other_voices(["anna", "ben", "carl"], split, split, seed=1)
    assert set(chosen) == {"anna", "ben", "carl"}
    assert not any(other == own for other, own in zip(chosen, split["speaker_id"], strict=True))
    assert other_voices(["anna", "ben", "carl"], split, split.select([7, 3]), seed=1) == [chosen[7], chosen[3]]
    assert other_voices(["anna", "ben", "carl"], split, split, seed=2) != chosen


@pytest.mark.parametrize(
    ("known", "speakers"),
    [
        ([], ["anna", "ben"]),
        (["anna"], ["anna"]),
        (["anna", "ben"], ["ben"]),
        (["anna", "unknown"], ["anna", "unknown"]),
    ],
)
def test_there_is_no_other_voice_without_two_known_speakers(known, speakers):
    split = corpus(*speakers)
    assert other_voices(known, split, split, seed=1) is None


def test_the_cosine_is_with_the_mean_and_missing_without_references():
    assert nearness(LOW, {"a": LOW, "b": HIGH}) == pytest.approx(np.sqrt(0.5))
    assert nearness(LOW, {"a": None, "b": LOW}) == 1
    assert nearness(LOW, {}) is None and nearness(None, {"a": LOW}) is None


def test_the_side_is_that_of_the_nearer_speaker():
    low, high = {"a": LOW}, {"b": HIGH}
    assert list(sides_of(HIGH, LOW, target=high, source=low).values()) == [1, 0, 1, 1, 0]
    assert list(sides_of(LOW, LOW, target=high, source=low).values()) == [0, 1, 0, 1, 0]
    alone = sides_of(HIGH, LOW, target=high, source={})
    assert alone["voice_on_target_side"] is None and alone["voice_similarity_target"] == 1


def test_a_segment_in_another_voice_is_compared_with_both_speakers(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "SpeakerEncoder", PitchEncoder)
    split = corpus("anna", "anna", "ben", "ben")
    rows = [
        row_of(tmp_path, "anna_0", "anna", "ben", spoken=PITCH["ben"]),
        row_of(tmp_path, "ben_2", "ben", "anna", spoken=PITCH["ben"]),
    ]
    compare_voices(rows, split, tmp_path, seed=0)
    changed, same = rows
    assert [row["voice_similarity"] for row in rows] == pytest.approx([1, 1])
    assert [changed["voice_similarity_target"], same["voice_similarity_source"]] == pytest.approx([1, 1])
    assert (changed["voice_on_target_side"], same["voice_on_target_side"]) == (1, 0)
    assert changed["voice_same_speaker"] == pytest.approx(1)
    assert changed["voice_other_speaker"] < 0.9


def test_the_original_is_no_reference_of_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "SpeakerEncoder", PitchEncoder)
    rows = [row_of(tmp_path, "anna_0", "anna", "ben", spoken=PITCH["ben"])]
    compare_voices(rows, corpus("anna", "ben"), tmp_path, seed=0)
    assert rows[0]["voice_similarity_source"] is rows[0]["voice_on_target_side"] is None
    assert rows[0]["voice_similarity_target"] == pytest.approx(1)


def test_without_the_encoder_there_are_no_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(PitchEncoder, "missing", "not installed")
    monkeypatch.setattr(voices, "SpeakerEncoder", PitchEncoder)
    rows = [row_of(tmp_path, "a", "anna"), row_of(tmp_path, "b", "anna", "ben")]
    compare_voices(rows, corpus("anna", "ben"), tmp_path, seed=0)
    assert rows[0]["voice_similarity"] is None and not set(OTHER_VOICE) & set(rows[0])
    assert all(rows[1][name] is None for name in ("voice_similarity", *OTHER_VOICE))
