"""Recordings are divided at pauses: nothing is lost, nothing overlaps, blocks make no difference."""

import numpy as np
import pytest
from make_corpus import noise

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import SAMPLING_RATE
from hf_components.speech.segmenting import SILENCE, SPEECH, TOO_SHORT, Segmentation, Stretch, segment

pytestmark = pytest.mark.unit

SHORT = {"min_silence": 0.3, "min_segment": 0.4, "max_segment": 2.0, "padding": 0.1}


def recording(seconds: float, *sounds: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Noise at -20 dB between these seconds, and digital silence elsewhere."""
    waveform = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
    for start, end in sounds:
        part = slice(round(start * SAMPLING_RATE), round(end * SAMPLING_RATE))
        waveform[part] = noise(seconds, seed=seed)[part]
    return waveform


def stretches(waveform: np.ndarray, block: int | None = None, **rules) -> list[Stretch]:
    rules = Segmentation(**(SHORT | rules))
    blocks = [waveform] if block is None else [waveform[i : i + block] for i in range(0, len(waveform), block)]
    return list(segment(blocks, rules, rules.new_detector()))


def bounds(found: list[Stretch]) -> list[tuple[str, float, float]]:
    return [(stretch.kind, stretch.start / SAMPLING_RATE, stretch.end / SAMPLING_RATE) for stretch in found]


def in_seconds(waveform: np.ndarray, **rules) -> list[tuple[str, float, float]]:
    return bounds(stretches(waveform, **rules))


def check_complete(found: list[Stretch], waveform: np.ndarray) -> None:
    assert [stretch.start for stretch in found] == [0, *(stretch.end for stretch in found[:-1])]
    assert found[-1].end == len(waveform) and all(stretch.start < stretch.end for stretch in found)
    for stretch in found:
        if stretch.kind == SPEECH:
            assert np.array_equal(stretch.waveform, waveform[stretch.start : stretch.end])
        else:
            assert stretch.waveform is None


def test_cuts_are_at_pauses_and_keep_some_of_them():
    waveform = recording(5, (0.5, 1.5), (2.0, 2.5), (2.7, 3.2), (4.0, 4.1))
    found = stretches(waveform)
    assert bounds(found) == [
        (SILENCE, 0, 0.4),
        (SPEECH, 0.4, 1.6),
        (SILENCE, 1.6, 1.9),
        (SPEECH, 1.9, 3.3),  # 0.2 s of silence are no pause
        (SILENCE, 3.3, 3.9),
        (TOO_SHORT, 3.9, 4.2),
        (SILENCE, 4.2, 5),
    ]
    check_complete(found, waveform)


def test_the_ends_of_a_recording_need_no_pause():
    assert in_seconds(recording(2, (0, 0.7), (1.2, 1.95))) == [(SPEECH, 0, 0.8), (SILENCE, 0.8, 1.1), (SPEECH, 1.1, 2)]
    assert in_seconds(recording(1)) == [(SILENCE, 0, 1)]
    assert in_seconds(recording(0.02, (0, 0.02))) == [(TOO_SHORT, 0, 0.02)]


def test_padding_may_be_none_or_all_of_the_shortest_pause():
    sounds = (0.5, 1.0), (1.3, 2.0)
    assert in_seconds(recording(2, *sounds), padding=0.0)[1:] == [
        (SPEECH, 0.5, 1.0),
        (SILENCE, 1.0, 1.3),
        (SPEECH, 1.3, 2.0),
    ]
    assert in_seconds(recording(2, *sounds), padding=0.15)[1:] == [(SPEECH, 0.35, 1.15), (SPEECH, 1.15, 2.0)]


def test_long_segments_are_cut_at_their_quietest_place():
    waveform = recording(6, (0, 6))
    for second in (1.7, 3.5):
        waveform[int((second - 0.1) * SAMPLING_RATE) : int((second + 0.1) * SAMPLING_RATE)] *= 0.5
    found = stretches(waveform)
    check_complete(found, waveform)
    lengths = [(stretch.end - stretch.start) / SAMPLING_RATE for stretch in found]
    assert max(lengths) <= 2 and min(lengths) >= 0.4 and {stretch.kind for stretch in found} == {SPEECH}
    assert found[0].end / SAMPLING_RATE == pytest.approx(1.7, abs=0.02)
    assert found[1].end / SAMPLING_RATE == pytest.approx(3.5, abs=0.02)


@pytest.mark.parametrize("seconds", [2.0, 2.01, 2.3, 2.4, 4.0, 4.1, 7.77])
def test_what_is_cut_off_is_never_too_short(seconds):
    waveform = recording(seconds + 1, (0, seconds))
    found = stretches(waveform, padding=0.0)
    check_complete(found, waveform)
    assert {stretch.kind for stretch in found} == {SPEECH, SILENCE} and found[-1].kind == SILENCE
    assert found[-1].start == round(seconds * SAMPLING_RATE)


def random_recording(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    edges = np.cumsum(random.uniform(0.02, 1.2, 24))
    return recording(edges[-1] + 0.1234, *edges.reshape(-1, 2), seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [777, 16_000, 50_001])
def test_blocks_make_no_difference(seed, block):
    waveform = random_recording(seed)
    whole = stretches(waveform)
    check_complete(whole, waveform)
    assert bounds(stretches(waveform, block)) == bounds(whole)


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_what_a_plain_reading_of_the_rules_finds(seed):
    """All at once, on the levels of the whole recording, without padding and long segments."""
    waveform, rules = random_recording(seed), {"padding": 0.0, "max_segment": 60.0}
    padded = np.pad(waveform, (0, -len(waveform) % 160))
    loud = np.flatnonzero(np.sqrt(np.square(padded.reshape(-1, 160)).mean(1)) > 10 ** (-40 / 20))
    parts = np.split(loud, np.flatnonzero(np.diff(loud) > 30) + 1)  # after 30 silent frames, which are 0.3 s
    expected = [(part[0] * 160, min((part[-1] + 1) * 160, len(waveform))) for part in parts]
    found = [(stretch.start, stretch.end) for stretch in stretches(waveform, **rules) if stretch.kind != SILENCE]
    assert found == expected


def test_an_offset_changes_nothing():
    waveform = random_recording(1)
    assert bounds(stretches(waveform + np.float32(0.3))) == bounds(stretches(waveform))


def test_silence_is_relative_to_full_scale():
    waveform = recording(3, (0.5, 1.5))
    assert [kind for kind, *_ in in_seconds(0.01 * waveform)] == [SILENCE]  # -60 dB
    assert in_seconds(0.01 * waveform, silence_db=-70) == in_seconds(waveform)


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"detector": "ear"}, "one of energy, vad"),
        ({"silence_db": 40}, r"must lie in \(-120, 0\), got 40"),
        ({"min_silence": 0}, "more than 0 s"),
        ({"padding": 0.3}, r"lie in \[0, 0.25\], half of min_silence"),
        ({"max_segment": 0.5}, "at least 1.0 s"),
        ({"min_segment": 20}, r"lie in \(0, 15.0\], half of max_segment"),
        ({"min_segment": float("nan")}, "min_segment"),
    ],
)
def test_rules_out_of_range(rules, message):
    with pytest.raises(UserError, match=message):
        Segmentation(**rules)
