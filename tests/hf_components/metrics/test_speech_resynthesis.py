"""The metric of resynthesised speech: against a published package, against what is known of made-up signals, by
path."""

import json
import shutil
import sys

import evaluate
import mel_cepstral_distance
import numpy as np
import pytest
import soundfile
from paths import ROOT
from tiny_units import babble

from hf_components.metrics.speech_resynthesis.cepstra import (
    FLOOR,
    HOP,
    MEL_BANDS,
    ORDER,
    align,
    cepstra_of_energies,
    mel_cepstra,
    mel_cepstral_distortion,
)
from hf_components.metrics.speech_resynthesis.figures import bitrate, mean_and_interval, measure
from hf_components.metrics.speech_resynthesis.pitch import fundamental_frequency

pytestmark = pytest.mark.unit

FOLDER = ROOT / "hf_components" / "metrics" / "speech_resynthesis"
TO_OURS = 10 * np.sqrt(2) / MEL_BANDS  # the package leaves out the factor, and does not divide by the number of bands
THEIRS = {"s": 0, "D": ORDER, "aligning": "dtw", "align_target": "mfcc", "dtw_radius": None}  # all paths: exact


def voice(pitch: float, seconds: float = 1.0) -> np.ndarray:
    """A buzz at so many Hz."""
    time = np.arange(round(seconds * 16_000)) / 16_000
    return 0.05 * sum(np.sin(2 * np.pi * pitch * n * time + n) for n in range(1, 15))


def noise(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))


def test_distortion_and_alignment_equal_the_published_package():
    rng = np.random.default_rng(0)
    for frames in ((40, 40), (33, 50), (50, 1), (2, 70)):
        a, b = (np.exp(rng.normal(size=(count, MEL_BANDS), scale=3)) for count in frames)
        ours, _ = mel_cepstral_distortion(cepstra_of_energies(a), cepstra_of_energies(b))
        theirs, _ = mel_cepstral_distance.compare_mel_spectrograms(np.log10(a + FLOOR), np.log10(b + FLOOR), **THEIRS)
        assert ours == pytest.approx(TO_OURS * theirs, rel=1e-9)


def test_distortion_of_recordings_is_near_the_published_package(tmp_path):
    a, b = babble(1.5, 1), babble(1.7, 2)
    for name, wave in (("a", a), ("b", b)):
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    theirs, _ = mel_cepstral_distance.compare_audio_files(
        tmp_path / "a.wav",
        tmp_path / "b.wav",
        sample_rate=16_000,
        n_fft=32,
        win_len=32,
        hop_len=10,
        M=MEL_BANDS,
        norm_audio=False,
        **THEIRS,
    )
    # Its filters have their corners on bins of the FFT, ours have them where the mel scale has them.
    assert measure(a, b)["mcd"] == pytest.approx(TO_OURS * theirs, rel=0.03)


def test_distortion_is_the_difference_of_smooth_spectra_in_decibels():
    coefficient, size = 3, 0.4
    bands = np.arange(MEL_BANDS)
    ripple = size * np.cos(np.pi * coefficient * (bands + 0.5) / MEL_BANDS)  # in ln energy
    flat = np.ones((5, MEL_BANDS))
    distortion, _ = mel_cepstral_distortion(cepstra_of_energies(flat), cepstra_of_energies(flat * np.exp(ripple)))
    rms_decibels = np.sqrt(np.mean((10 / np.log(10) * ripple) ** 2))
    assert distortion == pytest.approx(rms_decibels, rel=1e-6)


def test_alignment_finds_the_smallest_sum_of_all_paths():
    def smallest(distances: np.ndarray, i: int, j: int) -> float:
        if (i, j) == (0, 0):
            return distances[0, 0]
        before = [cell for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(cell) >= 0]
        return distances[i, j] + min(smallest(distances, *cell) for cell in before)

    rng = np.random.default_rng(1)
    for shape in ((5, 5), (3, 6), (6, 2), (1, 4), (4, 1), (1, 1)):
        distances = rng.random(shape)
        a, b = align(distances)
        assert distances[a, b].sum() == pytest.approx(smallest(distances, shape[0] - 1, shape[1] - 1))
        assert (a[0], b[0], a[-1], b[-1]) == (0, 0, shape[0] - 1, shape[1] - 1)
        assert {(int(x), int(y)) for x, y in zip(np.diff(a), np.diff(b), strict=True)} <= {(0, 1), (1, 0), (1, 1)}


def test_what_a_listener_would_not_mind_costs_nothing():
    speech = babble(2.0, 3)
    assert measure(speech, speech) == {
        "snr": 150,
        "si_sdr": 150,
        "mcd": 0,
        "length_ratio": 1,
        "log_f0_rmse": 0,
        "voicing_error": 0,
    }
    quieter = measure(0.5 * speech, speech)
    assert quieter["si_sdr"] > 100 and quieter["mcd"] < 0.05 and quieter["snr"] == pytest.approx(6.02, abs=0.01)
    late = measure(np.concatenate([speech[:160], speech]), speech)  # the alignment absorbs 10 ms
    assert late["mcd"] < 0.2 and late["length_ratio"] == pytest.approx(1.005)


def test_a_shuffled_voice_is_farther_than_a_noisy_one():
    speech = babble(2.0, 4)
    pieces = np.split(speech, 100)
    np.random.default_rng(0).shuffle(pieces)
    assert (
        measure(np.concatenate(pieces), speech)["mcd"] > 2 * measure(speech + 0.003 * noise(2.0) / 0.1, speech)["mcd"]
    )


def test_signal_to_noise_as_defined():
    tone, other = np.sin(np.arange(16_000) / 5), np.cos(np.arange(16_000) / 5)
    assert measure(tone + 0.1 * other, tone)["snr"] == pytest.approx(20, abs=0.01)
    assert measure(3 * (tone + 0.1 * other), tone)["si_sdr"] == pytest.approx(20, abs=0.01)
    assert measure(other, tone)["snr"] == pytest.approx(-3.01, abs=0.01)  # the same sound, a quarter of a period later
    assert measure(1e-6 * other, tone)["snr"] == pytest.approx(0, abs=0.01)


def test_pitch_is_that_of_the_voice_and_of_each_frame():
    frames = len(mel_cepstra(voice(150.0)))
    inner = fundamental_frequency(voice(150.0), frames)[5:-5]
    assert inner == pytest.approx(np.full(len(inner), 150), rel=0.01)
    change = np.concatenate([voice(120.0, 0.5), noise(0.5), voice(200.0, 0.5)])
    track = fundamental_frequency(change, len(mel_cepstra(change)))
    seconds = (np.arange(len(track)) * HOP + 256) / 16_000
    assert track[(seconds > 0.1) & (seconds < 0.4)] == pytest.approx(120, rel=0.01)
    assert track[(seconds > 1.1) & (seconds < 1.4)] == pytest.approx(200, rel=0.01)
    assert np.mean(track[(seconds > 0.6) & (seconds < 0.9)] > 0) < 0.2


def test_errors_of_pitch_and_voicing():
    high = measure(voice(165.0), voice(150.0))
    assert high["log_f0_rmse"] == pytest.approx(np.log(165 / 150), rel=0.02) and high["voicing_error"] < 0.05
    whisper = measure(noise(), voice(150.0))
    assert whisper["voicing_error"] > 0.8
    assert measure(noise(seed=1), noise(seed=2) * np.linspace(1, 2, 16_000))["log_f0_rmse"] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 16_000)), r"one channel of shape \(samples,\), got shape \(2, 16000\)"),
        (voice(150.0, 0.039), "must last 40 ms .640 samples at 16000 Hz., one frame of F0, got 624"),
        (np.r_[voice(150.0), np.nan, np.inf], "has 2 samples that are NaN or infinite"),
        (np.zeros(16_000), "is silent: all 16000 samples are 0"),
    ],
)
def test_what_cannot_be_judged_says_so(wrong, message):
    with pytest.raises(ValueError, match=f"the prediction .*{message}"):
        measure(wrong, voice(150.0))
    with pytest.raises(ValueError, match=f"the reference .*{message}"):
        measure(voice(150.0), wrong)


def test_the_shortest_that_can_be_judged_is_judged():
    assert measure(voice(150.0, 0.04), voice(150.0, 0.05))["length_ratio"] == pytest.approx(0.8)


def test_bitrate_is_rate_times_entropy():
    assert bitrate([[0, 1, 2, 3] * 25], seconds=2.0) == pytest.approx(50 * 2)
    assert bitrate([[5] * 100], seconds=2.0) == 0
    assert bitrate([[0, 0, 0], [7]], seconds=1.0) == pytest.approx(4 * (0.25 * 2 + 0.75 * np.log2(4 / 3)))
    for units, seconds in (([[]], 1.0), ([[1]], 0.0)):
        with pytest.raises(ValueError, match="a bitrate needs units and a positive duration"):
            bitrate(units, seconds)


def test_mean_and_interval_of_what_there_is():
    values = np.random.default_rng(0).normal(3, 1, size=400).tolist()
    mean, (low, high) = mean_and_interval([*values, None], num_bootstrap=4000)
    assert mean == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx(
        (mean - 1.96 * np.std(values) / 20, mean + 1.96 * np.std(values) / 20), abs=0.02
    )
    assert mean_and_interval(values, seed=1) == mean_and_interval(values, seed=1) != mean_and_interval(values, seed=2)
    assert mean_and_interval([None]) == (None, None)
    assert mean_and_interval([2.0, None]) == (2.0, None)
    assert mean_and_interval([2.0, 4.0], num_bootstrap=0) == (3.0, None)


def test_loads_by_path_from_a_copy_without_our_package(tmp_path, monkeypatch):
    copy = shutil.copytree(FOLDER, tmp_path / "speech_resynthesis", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "hf_components"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hf_components", None)  # importing it now fails
    metric = evaluate.load(str(copy), keep_in_memory=True)
    pairs = [(babble(1.0, 1), babble(1.1, 2)), (babble(0.6, 3), babble(0.6, 4))]
    predictions, references = zip(*pairs, strict=True)
    result = metric.compute(predictions=predictions, references=references, units=[[1, 2], [1, 3]])
    assert result == json.loads(json.dumps(result))
    expected = [measure(*pair) for pair in pairs]
    assert result["segments"] == expected and result["pairs"] == 2
    assert result["mcd"] == pytest.approx(np.mean([row["mcd"] for row in expected]))
    assert result["mcd_interval"] == pytest.approx(sorted(row["mcd"] for row in expected))
    assert result["bitrate"] == pytest.approx(4 / 1.7 * 1.5)


def test_the_module_names_the_pair_it_cannot_judge():
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    with pytest.raises(ValueError, match="pair 1: the prediction is silent"):
        metric.compute(predictions=[voice(150.0), np.zeros(16_000)], references=[voice(150.0)] * 2)
    with pytest.raises(ValueError, match="one sequence per prediction, got 2 for 1"):
        metric.compute(predictions=[voice(150.0)], references=[voice(150.0)], units=[[1], [2]])
