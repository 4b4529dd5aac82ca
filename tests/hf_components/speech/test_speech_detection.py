"""Detectors: levels, offsets, frames across blocks, speech in noise."""

import importlib.util

import numpy as np
import pytest
from make_corpus import noise

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import SAMPLING_RATE
from hf_components.speech.segmenting import Segmentation
from hf_components.speech.speech_detection import EnergyDetector, VoiceActivityDetector, detect

pytestmark = pytest.mark.unit


def flags(waveform: np.ndarray, detector) -> np.ndarray:
    return np.concatenate([is_speech for _, is_speech in detect([waveform], detector)])


def sine(amplitude: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (amplitude * np.sin(2 * np.pi * 400 * time)).astype(np.float32)


@pytest.mark.parametrize("level, speech", [(-39.5, True), (-40.5, False)])
def test_level_is_the_rms_relative_to_full_scale(level, speech):
    found = flags(sine(2**0.5 * 10 ** (level / 20)), EnergyDetector(-40))
    assert len(found) == 100 and found.mean() == speech


def test_an_offset_is_no_sound_and_hides_none():
    assert not flags(np.full(SAMPLING_RATE, 0.5, np.float32), EnergyDetector(-60)).any()
    assert flags(0.5 + sine(0.1), EnergyDetector(-40)).all()


def test_levels_are_reported():
    detector = EnergyDetector(-40)
    flags(np.concatenate([sine(2**0.5 * 10 ** (level / 20)) for level in (-60, -20, -10)]), detector)
    assert detector.findings() == {"quiet_db": -60, "loud_db": -10}


def test_frames_go_across_blocks_and_the_last_may_be_shorter():
    waveform = noise(0.5)[:1000]
    blocks = list(detect([waveform[:100], waveform[100:130], waveform[130:]], EnergyDetector(-40)))
    assert [len(block) for block, _ in blocks] == [960, 40] and [len(found) for _, found in blocks] == [6, 1]
    assert np.array_equal(np.concatenate([block for block, _ in blocks]), waveform)


def test_the_detector_of_voices_hears_them_in_noise():
    pytest.importorskip("silero_vad", reason="silero-vad is not installed")
    pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")
    import soxr

    from hf_components.speech.espeak_ng import EspeakNg

    with EspeakNg() as espeak:
        spoken = espeak.synthesise("Nobody told the doctor about the weather.", "en-us+m3") / np.float32(32768)
        voice = soxr.resample(spoken, espeak.sample_rate, SAMPLING_RATE)
    silence = np.zeros(2 * SAMPLING_RATE, np.float32)
    waveform = np.concatenate([silence, voice, silence, voice, silence])
    waveform += 0.2 * noise(len(waveform) / SAMPLING_RATE)[: len(waveform)]  # at -34 dB
    found = flags(waveform, VoiceActivityDetector())
    seconds = np.arange(len(found)) * VoiceActivityDetector.frame / SAMPLING_RATE
    middle = 2 + len(voice) / SAMPLING_RATE + 1
    assert not found[seconds < 1.5].any() and not found[abs(seconds - middle) < 0.5].any()
    assert found[abs(seconds - 2 - len(voice) / 2 / SAMPLING_RATE) < 0.5].mean() > 0.9
    assert flags(waveform, EnergyDetector(-40)).mean() > 0.9
    # In other blocks it hears the same.
    detector = VoiceActivityDetector()
    parts = [is_speech for _, is_speech in detect(np.array_split(waveform, 7), detector)]
    assert np.array_equal(np.concatenate(parts), found)


def test_an_absent_package_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"underheard\[vad\]\", or use --detector energy"):
        Segmentation(detector="vad").new_detector()
