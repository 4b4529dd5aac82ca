"""Figures of one resynthesised segment, and of many."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from .cepstra import SAMPLING_RATE, mel_cepstra, mel_cepstral_distortion
from .pitch import SHORTEST, fundamental_frequency, pitch_errors

FIGURES = ("snr", "si_sdr", "mcd", "length_ratio", "log_f0_rmse", "voicing_error")


def measure(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """The figures of a resynthesis against its original.

    `snr` and `si_sdr` compare samples of the part that both have; `mcd`, `log_f0_rmse` and `voicing_error` compare
    frames along one alignment, that of the cepstra.

    Args:
        prediction, reference: waveforms (samples,) at 16 kHz, of any two lengths from 40 ms.
    Returns:
        `snr`, `si_sdr` and `mcd` in dB, `length_ratio` (prediction / reference), `log_f0_rmse` in nepers (None where
        no step is voiced in both), `voicing_error` as a share.
    Raises:
        ValueError: a waveform is not one-dimensional, too short, silent, or has NaN or infinite samples.
    """
    prediction = checked("prediction", prediction)
    reference = checked("reference", reference)
    common = min(len(prediction), len(reference))
    cepstra = [mel_cepstra(waveform) for waveform in (prediction, reference)]
    mcd, path = mel_cepstral_distortion(*cepstra)
    tracks = [
        fundamental_frequency(waveform, len(frames))[steps]
        for waveform, frames, steps in zip((prediction, reference), cepstra, path, strict=True)
    ]
    return {
        "snr": signal_to_noise(prediction[:common], reference[:common]),
        "si_sdr": scale_invariant_sdr(prediction[:common], reference[:common]),
        "mcd": mcd,
        "length_ratio": len(prediction) / len(reference),
        **pitch_errors(*tracks),
    }


def checked(name: str, waveform: np.ndarray) -> np.ndarray:
    """The waveform in float64, fit to be judged, or a ValueError that says why it is not."""
    waveform = np.asarray(waveform, dtype=np.float64)
    least = int(SHORTEST * SAMPLING_RATE)
    if waveform.ndim != 1:
        raise ValueError(f"the {name} must be one channel of shape (samples,), got shape {waveform.shape}")
    if len(waveform) < least:
        raise ValueError(
            f"the {name} must last {1000 * SHORTEST:g} ms ({least} samples at {SAMPLING_RATE} Hz), one frame of "
            f"F0, got {len(waveform)} samples"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"the {name} has {np.count_nonzero(~np.isfinite(waveform))} samples that are NaN or infinite")
    if not waveform.any():
        raise ValueError(f"the {name} is silent: all {len(waveform)} samples are 0")
    return waveform


def signal_to_noise(prediction: np.ndarray, reference: np.ndarray) -> float:
    """10 log10(|r|^2 / |r - p|^2) over samples, in dB. Silence has 0, the same energy in an unrelated phase has -3."""
    return decibels(np.sum(reference**2), np.sum((reference - prediction) ** 2))


def scale_invariant_sdr(prediction: np.ndarray, reference: np.ndarray) -> float:
    """SI-SDR in dB: the part of the prediction that is the reference, at any gain, to the rest of it.

    10 log10(|a r|^2 / |a r - p|^2), a = <p, r> / |r|^2 (Le Roux et al. 2019, https://arxiv.org/abs/1811.02508).
    """
    scaled = np.dot(prediction, reference) / np.sum(reference**2) * reference
    return decibels(np.sum(scaled**2), np.sum((scaled - prediction) ** 2))


def decibels(signal: float, noise: float) -> float:
    """Their ratio, at most 150 dB either way, which is beyond the precision of float32 samples and stays finite in
    JSON."""
    least = 1e-15 * max(signal, noise)
    return float(10 * np.log10(max(signal, least) / max(noise, least)))


def bitrate(units: Sequence[Sequence[int]], seconds: float) -> float:
    """Bits per second of discrete units: N / D * H, number of units per second times the entropy of their
    distribution.

    As in the Zero Resource Speech Challenge 2019 (Dunbar et al., https://arxiv.org/abs/1904.11469): units count as
    independent of each other, so that it is an upper bound of what a coder needs that knows their order.

    Args:
        units: sequences of the judged segments, as they are sent: one per frame, or deduplicated.
        seconds: how long they all last.
    Raises:
        ValueError: no units, or no time.
    """
    counts = np.unique(
        np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in units]), return_counts=True
    )[1]
    if not counts.sum() or not seconds > 0:
        raise ValueError(f"a bitrate needs units and a positive duration, got {counts.sum()} units in {seconds} s")
    shares = counts / counts.sum()
    return float(counts.sum() / seconds * -(shares * np.log2(shares)).sum())


def mean_and_interval(
    values: Sequence[float | None], num_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """Mean of what is not None, and its percentile bootstrap interval [low, high] (Efron and Tibshirani 1993, chapter
    13).

    Returns:
        None for the mean without any value; None for the interval below two values or with `num_bootstrap=0`.
    """
    known = np.array([value for value in values if value is not None])
    if len(known) < 2 or num_bootstrap == 0:
        return (float(known.mean()) if len(known) else None), None
    found = bootstrap(
        (known,),
        np.mean,
        n_resamples=num_bootstrap,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(known.mean()), [float(found.confidence_interval.low), float(found.confidence_interval.high)]
