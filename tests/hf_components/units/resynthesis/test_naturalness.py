"""DNSMOS: noise lowers it, short and long clips have one, and without its packages it says what to install."""

import importlib.util

import numpy as np
import pytest
import soxr
from tiny_units import babble

from hf_components.speech.espeak_ng import EspeakNg
from hf_components.units.resynthesis.naturalness import SECONDS, Dnsmos

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def dnsmos():
    pytest.importorskip("speechmos", reason="needs the extra judges")
    return Dnsmos()


def test_noise_lowers_the_rating(dnsmos):
    pytest.importorskip("espeakng_loader")
    with EspeakNg() as voice:
        spoken = voice.synthesise("the quick brown fox jumps over the lazy dog", "en-us")
        clean = soxr.resample(spoken.astype(np.float32) / 2**15, voice.sample_rate, 16_000)
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    ratings = [dnsmos(clean + level * noise) for level in (0, 0.02, 0.1)]
    assert 5 > ratings[0] > ratings[1] + 0.3 > ratings[2] + 0.3 > 1


def test_a_clip_repeated_has_the_same_rating(dnsmos):
    clip = babble(SECONDS / 4, seed=0)
    assert dnsmos(clip) == pytest.approx(dnsmos(np.tile(clip, 4)[: round(SECONDS * 16_000)]), abs=1e-3)
    assert dnsmos(babble(12.0, seed=0)) is not None


def test_silence_has_none(dnsmos):
    assert dnsmos(np.zeros(16_000, dtype=np.float32)) is None


def test_without_its_packages_it_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "speechmos" else real(name))
    judge = Dnsmos()
    assert (
        judge.missing == "speechmos not installed: pip install 'underheard[judges]'" and judge(babble(1.0, 0)) is None
    )
