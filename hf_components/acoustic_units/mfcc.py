"""Mel-frequency cepstral coefficients with their differences: acoustic features that need no training."""

import functools
import math

import torch
from transformers.audio_utils import mel_filter_bank

from .configuration_acoustic_units import COEFFICIENTS, HOP, WINDOW

MEL_BANDS = 40
FLOOR = 1e-6  # added before the logarithm: a fixed level, so that it does not depend on the clip
REACH = 2  # frames on each side that a difference uses


def mfcc(waveform: torch.Tensor) -> torch.Tensor:
    """13 coefficients every 20 ms, with their first and second differences, the same as torchaudio computes.

    Differences are regression slopes over five frames (Young et al., The HTK Book, eq. 5.16); the first and the last
    frame are repeated at the edges. It takes one clip at a time: a padded batch is slower on a CPU, since it does not
    fit the cache.

    Args:
        waveform: `(samples,)` at 16 kHz.
    Returns:
        `(frames, 39)`.
    """
    window, filters, cosines = _tables(waveform.device)
    power = torch.fft.rfft(waveform.float().unfold(0, WINDOW, HOP) * window).abs().square()  # (frames, bins)
    static = torch.log(power @ filters + FLOOR) @ cosines
    slope = _slope(static)
    return torch.cat([static, slope, _slope(slope)], dim=-1)


def _slope(values: torch.Tensor) -> torch.Tensor:
    """(frames, dim)"""
    padded = torch.cat([values[:1]] * REACH + [values] + [values[-1:]] * REACH)
    rises = [
        n * (padded[REACH + n : len(padded) - REACH + n] - padded[REACH - n : len(padded) - REACH - n])
        for n in range(1, REACH + 1)
    ]
    return sum(rises) / (2 * sum(n * n for n in range(1, REACH + 1)))


@functools.cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hann window, mel filters `(bins, bands)`, and the cosines `(bands, coefficients)` of the orthonormal DCT-II."""
    filters = mel_filter_bank(WINDOW // 2 + 1, MEL_BANDS, 0.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    band = torch.arange(MEL_BANDS, dtype=torch.float64)
    order = torch.arange(COEFFICIENTS, dtype=torch.float64)
    cosines = torch.cos(math.pi / MEL_BANDS * (band[:, None] + 0.5) * order) * math.sqrt(2 / MEL_BANDS)
    cosines[:, 0] *= math.sqrt(0.5)
    return (
        torch.hann_window(WINDOW, device=device),
        torch.from_numpy(filters).float().to(device),
        cosines.float().to(device),
    )
