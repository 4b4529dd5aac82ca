"""What is wrong with enrolment sentences is named."""

import numpy as np
import pytest
from tiny_speech import tiny_processor, tiny_whisper

from hf_components.runtime.errors import UserError
from hf_components.voices import checks
from hf_components.voices.checks import check_sentences, check_texts, clipped_share, how_mixed, pitch_of
from hf_components.voices.sentences import Sentence

pytestmark = pytest.mark.unit


def voice(pitch: float, number: int, seconds: float = 1.5) -> np.ndarray:
    """A buzz with harmonics, of which each number has another vowel."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    random = np.random.default_rng(number)
    wave = sum(np.sin(2 * np.pi * k * pitch * time) * np.exp(-0.3 * k) for k in range(1, 12))
    return (0.2 * wave / np.abs(wave).max() + 0.001 * random.standard_normal(len(time))).astype(np.float32)


def said(count: int, pitch: float = 120.0) -> list[Sentence]:
    return [Sentence(f"{i}.wav", voice(pitch + i, i), f"sentence {'abcdefgh'[i]}") for i in range(count)]


def test_good_sentences_pass():
    assert check_sentences("anna", said(5)) == []


def test_one_sentence_is_too_few():
    with pytest.raises(UserError, match="voice of anna needs at least 2 sentences.*got 1"):
        check_sentences("anna", said(1))


def test_silence_is_named():
    silent = Sentence("quiet.wav", np.zeros(16_000, np.float32), "hello")
    with pytest.raises(UserError, match="quiet.wav of anna is silent"):
        check_sentences("anna", [*said(2), silent])


def test_a_text_without_words_is_named():
    with pytest.raises(UserError, match="the text of x.wav has no words"):
        check_sentences("anna", [*said(2), Sentence("x.wav", voice(120, 1), " ... ")])


def test_clipping_is_warned_of():
    loud = np.clip(8 * voice(120, 1), -0.9, 0.9)
    assert clipped_share(loud) > checks.CLIPPED_SHARE > clipped_share(voice(120, 1))
    (warning,) = check_sentences("anna", [*said(2), Sentence("loud.wav", loud, "loud words")])
    assert "loud.wav of anna is clipped" in warning


def test_a_sentence_recorded_twice_is_warned_of():
    twice = Sentence("again.wav", voice(121, 7), "Sentence, A!")
    (warning,) = check_sentences("anna", [*said(3), twice])
    assert "0.wav, again.wav of anna say the same sentence" in warning


def test_two_people_are_warned_of():
    high = [Sentence(f"high{i}.wav", voice(260 + i, i), f"words {'abc'[i]}") for i in range(3)]
    assert how_mixed([*said(3), *high]) > checks.MIXED
    (warning,) = check_sentences("anna", [*said(3), *high])
    assert "sound like two people" in warning


def test_pitch():
    assert 2 ** pitch_of(voice(120, 1)) == pytest.approx(120, rel=0.03)
    assert 2 ** pitch_of(voice(240, 1)) == pytest.approx(240, rel=0.03)


def test_a_text_of_another_sentence_is_warned_of(monkeypatch):
    losses = np.array([[1.0, 5.0, 6.0], [5.0, 4.8, 0.9], [6.0, 5.0, 5.5]])
    monkeypatch.setattr(checks, "losses_of_texts", lambda model, batches: losses)
    warnings = check_texts(tiny_whisper(), tiny_processor(), "anna", said(3))
    assert len(warnings) == 2
    assert "the text of 1.wav of anna does not match its recording: that of 2.wav fits it better" in warnings[0]
    assert "the text of 2.wav of anna hardly matches the recording: listen to it" in warnings[1]
    assert "the loss is 5.5 nats per token; above 4 is rare" in warnings[1]


def test_names_are_made_visible():
    with pytest.raises(UserError) as problem:
        check_sentences("an\u202ena", said(1))
    assert "\u202e" not in str(problem.value)
