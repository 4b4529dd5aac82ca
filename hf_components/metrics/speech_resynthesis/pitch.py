"""Fundamental frequency by Praat's autocorrelation method, and its errors along an alignment."""

import numpy as np
import parselmouth

from .cepstra import HOP, SAMPLING_RATE, WINDOW

FLOOR, CEILING = 75.0, 600.0  # Hz, Praat's defaults
SHORTEST = 3 / FLOOR  # seconds: Praat's window is three periods of the lowest pitch


def fundamental_frequency(waveform: np.ndarray, frames: int) -> np.ndarray:
    """F0 in Hz at the centres of cepstral frames, 0 where unvoiced (Boersma 1993, Praat's "To Pitch (ac)").

    Args:
        waveform: (samples,) at 16 kHz, at least `SHORTEST` seconds.
    Returns:
        float64 (frames,).
    """
    step = HOP / SAMPLING_RATE
    pitch = parselmouth.Sound(waveform.astype(np.float64), SAMPLING_RATE).to_pitch_ac(
        time_step=step, pitch_floor=FLOOR, pitch_ceiling=CEILING
    )
    centres = (np.arange(frames) * HOP + WINDOW / 2) / SAMPLING_RATE
    nearest = np.rint((centres - pitch.x1) / step).astype(int)
    return pitch.selected_array["frequency"][nearest.clip(0, pitch.n_frames - 1)]


def unit_pitch(waveform: np.ndarray, units: int) -> np.ndarray:
    """F0 in Hz of each unit, 0 where unvoiced; of the two values in a unit of 20 ms, the first is taken.

    Args:
        waveform: (samples,) at 16 kHz.
        units: number of units.
    Returns:
        float64 (units,).
    """
    return fundamental_frequency(waveform, 2 * units)[::2]


def pitch_errors(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float | None]:
    """Errors between aligned F0 tracks (steps,) in Hz, 0 where unvoiced.

    Returns:
        `log_f0_rmse`: root mean square of the difference of ln F0 over the steps that are voiced in both, or None;
        `voicing_error`: share of steps that are voiced in only one (Nakatani et al. 2008,
        https://doi.org/10.1016/j.specom.2007.09.003).
    """
    voiced = (prediction > 0) & (reference > 0)
    difference = np.log(prediction[voiced]) - np.log(reference[voiced])
    return {
        "log_f0_rmse": float(np.sqrt(np.mean(difference**2))) if voiced.any() else None,
        "voicing_error": float(np.mean((prediction > 0) != (reference > 0))),
    }
