"""Mel-cepstral distortion along the best alignment of two waveforms."""

import numpy as np
from scipy.fft import dct
from scipy.spatial.distance import cdist
from transformers.audio_utils import mel_filter_bank

SAMPLING_RATE = 16_000
WINDOW = 512  # samples: 32 ms
HOP = 160  # samples: 10 ms
MEL_BANDS = 40  # 0 to 8 kHz
ORDER = 13  # cepstral coefficients 1 to 13; 0 is loudness
FLOOR = 1e-8  # band energy; about that of a silent frame in 16-bit audio

_FILTERS = mel_filter_bank(WINDOW // 2 + 1, MEL_BANDS, 0, SAMPLING_RATE / 2, SAMPLING_RATE, mel_scale="htk")


def mel_cepstra(waveform: np.ndarray) -> np.ndarray:
    """Cepstra of the log mel energies, without the coefficient 0.

    c_m = 1/M * sum over bands n of ln(E_n) cos(pi m (n - 1/2) / M), so that the distortion is in dB. The centre of
    frame i is at second (i * 160 + 256) / 16000. Silence is kept.

    Args:
        waveform: (samples,) at 16 kHz, at least 512.
    Returns:
        float64 (frames, 13).
    """
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2  # (frames, bins)
    return cepstra_of_energies(power @ _FILTERS)


def cepstra_of_energies(energies: np.ndarray) -> np.ndarray:
    """Cepstra 1 to 13 of the energies of mel bands (frames, bands) -> (frames, 13)."""
    return dct(np.log(energies + FLOOR), type=2, axis=-1)[:, 1 : ORDER + 1] / (2 * energies.shape[-1])


def align(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dynamic time warping (Sakoe and Chiba 1978): the path of steps (0, 1), (1, 0), (1, 1) with the smallest sum.

    Args:
        distances: (frames of a, frames of b).
    Returns:
        the frames of a and of b along the path, from the first pair to the last, int64 (steps,) each.
    """
    rows, columns = distances.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[1:, 1:] = distances
    total[0, 0] = 0
    # An antidiagonal depends only on the two before it. Its cells (i, k - i) are `columns` apart in memory.
    flat = total.reshape(-1)
    width = columns + 1
    for k in range(2, rows + columns + 1):
        first = max(1, k - columns)
        last = min(rows, k - 1)
        start = k + first * columns
        stop = k + last * columns + 1
        above, left, diagonal = (flat[start - back : stop - back : columns] for back in (width, 1, width + 1))
        flat[start:stop:columns] += np.minimum(np.minimum(above, left), diagonal)
    i = rows
    j = columns
    path = [(i, j)]
    while (i, j) != (1, 1):
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda cell: total[cell])
        path.append((i, j))
    a, b = np.array(path[::-1]).T - 1
    return a, b


def mel_cepstral_distortion(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Mean mel-cepstral distortion in dB along the best alignment, and this alignment.

    10 / ln 10 * sqrt(2 * sum over m = 1..13 of (c_m - c'_m)^2) per pair of frames (Kubichek 1993,
    https://doi.org/10.1109/PACRIM.1993.407206). This is the root mean square over the mel scale of the difference in
    dB of the two smoothed spectra; it does not depend on loudness.

    Args:
        a, b: cepstra (frames, 13).
    """
    distances = 10 / np.log(10) * np.sqrt(2) * cdist(a, b)
    path = align(distances)
    return float(distances[path].mean()), path
