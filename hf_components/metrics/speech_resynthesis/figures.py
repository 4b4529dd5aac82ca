"""Figures of resynthesised segments: of one, and means over many."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from .cepstra import SAMPLING_RATE, mel_cepstra, mel_cepstral_distortion
from .pitch import SHORTEST, fundamental_frequency, pitch_errors

FIGURES = ("snr", "si_sdr", "mcd", "length_ratio", "log_f0_rmse", "voicing_error")


def measure(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """The figures of a resynthesis against its original.

    `snr` and `si_sdr` compare samples, over the shorter length. `mcd`, `log_f0_rmse` and `voicing_error` compare
    frames along the alignment of the cepstra.

    Args:
        prediction, reference: waveforms (samples,) at 16 kHz, at least 40 ms each; lengths may differ.
    Returns:
        `snr`, `si_sdr` and `mcd` in dB, `length_ratio` (prediction / reference), `log_f0_rmse` in nepers (None if no
        step is voiced in both), `voicing_error` as a share.
    Raises:
        ValueError: a waveform is not one-dimensional, too short or silent, or has NaN or infinite samples.
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
    """The waveform (samples,) at 16 kHz in float64.

    Args:
        name: what it is called in messages.
    Raises:
        ValueError: it is not one channel, too short for a frame of F0, silent, or not finite.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    least = int(SHORTEST * SAMPLING_RATE)
    if waveform.ndim != 1:
        raise ValueError(f"the {name} must be one channel of shape (samples,), got shape {waveform.shape}")
    if len(waveform) < least:
        raise ValueError(
            f"the {name} must last {1000 * SHORTEST:g} ms ({least} samples at {SAMPLING_RATE} Hz), one frame of F0, "
            f"got {len(waveform)} samples"
        )
    if not np.isfinite(waveform).all():
        raise ValueError(f"the {name} has {np.count_nonzero(~np.isfinite(waveform))} samples that are NaN or infinite")
    if not waveform.any():
        raise ValueError(f"the {name} is silent: all {len(waveform)} samples are 0")
    return waveform


def signal_to_noise(prediction: np.ndarray, reference: np.ndarray) -> float:
    """10 log10(|r|^2 / |r - p|^2) of waveforms (samples,), in dB.

    It is 0 for a silent prediction, and -3 for one of the same energy in an unrelated phase.
    """
    return decibels(np.sum(reference**2), np.sum((reference - prediction) ** 2))


def scale_invariant_sdr(prediction: np.ndarray, reference: np.ndarray) -> float:
    """SI-SDR in dB: ratio of the prediction's part that is the reference, at any gain, to its other part.

    10 log10(|a r|^2 / |a r - p|^2), a = <p, r> / |r|^2 (Le Roux et al. 2019, https://arxiv.org/abs/1811.02508), of
    waveforms (samples,).
    """
    scaled = np.dot(prediction, reference) / np.sum(reference**2) * reference
    return decibels(np.sum(scaled**2), np.sum((scaled - prediction) ** 2))


def decibels(signal: float, noise: float) -> float:
    """Ratio in dB, limited to +-150, which is beyond the precision of float32 samples and stays finite in JSON."""
    least = 1e-15 * max(signal, noise)
    return float(10 * np.log10(max(signal, least) / max(noise, least)))


def bitrate(units: Sequence[Sequence[int]], seconds: float) -> float:
    """Bits per second of discrete units: N / D * H, units per second times the entropy of their distribution.

    The same as in the Zero Resource Speech Challenge 2019 (Dunbar et al., https://arxiv.org/abs/1904.11469). Units
    count as independent, so a coder that uses their order needs fewer bits.

    Args:
        units: unit sequences as they would be sent: one unit per frame, or deduplicated.
        seconds: total duration.
    Raises:
        ValueError: there are no units, or the duration is not positive.
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
    """Mean of the values that are not None, and its percentile bootstrap interval [low, high].

    Efron and Tibshirani 1993, chapter 13.

    Returns:
        mean, None without values; interval, None below two values or with `num_bootstrap=0`.
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
