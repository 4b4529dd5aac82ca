"""Cut recordings that a model cannot take in one piece."""

import numpy as np

SEARCHED = 1 / 3  # share of a piece, at its end, in which a quiet place is looked for
QUIET = 0.2  # seconds that must be quiet together: a pause rather than the closure of a plosive


def cut_at_quiet(waveform: np.ndarray, longest_seconds: float, sampling_rate: int) -> list[np.ndarray]:
    """Pieces of at most `longest_seconds` which joined are the recording again.

    Each piece ends in the middle of the quietest `QUIET` seconds of the last third that it could have, so that words
    stay whole where there is a pause; of equally quiet places the last is taken.

    Args:
        waveform: float32 (samples,).
        longest_seconds: longer than `QUIET`.
        sampling_rate: in Hz.
    """
    longest = int(longest_seconds * sampling_rate)
    window = int(QUIET * sampling_rate)
    pieces = []
    while len(waveform) > longest:
        first = longest - int(SEARCHED * longest)
        energy = np.concatenate([[0.0], np.cumsum(np.square(waveform[first:longest], dtype=np.float64))])
        energy = energy[window:] - energy[:-window]  # of each window
        end = first + len(energy) - 1 - int(np.argmin(energy[::-1])) + window // 2
        pieces.append(waveform[:end])
        waveform = waveform[end:]
    return [*pieces, waveform]
