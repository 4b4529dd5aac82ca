"""The speaker encoder: its input, and that it tells voices apart where its package is installed."""

import importlib.util

import numpy as np
import pytest
import soxr
import torch
from tiny_units import babble

from hf_components.speech.espeak_ng import EspeakNg
from hf_components.units.resynthesis.speaker_encoder import LEAST_RMS, SpeakerEncoder, SpeakerNetwork, power_mel
from hf_components.units.resynthesis.speaker_encoder import windows_of as windows

pytestmark = pytest.mark.unit


def tone(frequency: float, loudness: float = 0.5, seconds: float = 1.0) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * frequency * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_a_frame_is_ten_milliseconds_and_a_higher_tone_lies_in_a_higher_band():
    mel = power_mel(tone(300))
    assert mel.shape == (101 + 160, 40) and mel.dtype == np.float32 and not mel[102:].any()
    peaks = [power_mel(tone(frequency))[50].argmax() for frequency in (300, 1000, 3000)]
    assert peaks == sorted(set(peaks))


def test_quiet_clips_are_amplified_and_loud_ones_are_not():
    quiet = tone(300, loudness=1e-3)
    assert power_mel(quiet).sum() == pytest.approx(power_mel(tone(300, LEAST_RMS * np.sqrt(2))).sum(), rel=1e-3)
    assert power_mel(tone(300, 0.5)).sum() == pytest.approx(4 * power_mel(tone(300, 0.25)).sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(1, [0]), (160, [0]), (197, [0]), (198, [0, 77]), (237, [0, 77]), (274, [0, 77]), (275, [0, 77, 154])],
)
def test_the_last_window_is_read_if_three_quarters_of_it_are_speech(frames, starts):
    mel = np.arange(1, frames + 1, dtype=np.float32)[:, None].repeat(2, axis=1)
    found = windows(np.pad(mel, ((0, 160), (0, 0))), frames)
    assert found.shape == (len(starts), 160, 2)
    assert [window[0, 0] for window in found] == [start + 1 for start in starts]
    assert np.count_nonzero(found[-1, :, 0]) == min(160, frames - starts[-1])


def test_embeddings_have_length_one():
    torch.manual_seed(0)
    found = SpeakerNetwork()(torch.rand(3, 160, 40))
    assert found.shape == (3, 256) and torch.allclose(found.norm(dim=1), torch.ones(3)) and (found >= 0).all()


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    encoder = SpeakerEncoder()
    assert encoder.missing == "resemblyzer not installed: pip install --no-deps resemblyzer==0.1.4"
    assert encoder(babble(1.0, 0)) is None


def test_a_voice_is_nearer_to_itself_than_to_another():
    pytest.importorskip("espeakng_loader")
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("resemblyzer is not installed")
    encoder = SpeakerEncoder()
    embeddings = {}
    with EspeakNg() as synthesiser:
        for voice in ("en-us+m3", "en-us+f3"):
            for text in ("the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore"):
                spoken = synthesiser.synthesise(text, voice).astype(np.float32) / 2**15
                embeddings[voice, text] = encoder(soxr.resample(spoken, synthesiser.sample_rate, 16_000))
    low, low_again, high, high_again = embeddings.values()
    assert min(low @ low_again, high @ high_again) > max(low @ high, low @ high_again, low_again @ high) + 0.1
    assert encoder(np.zeros(16_000, dtype=np.float32)) is None
