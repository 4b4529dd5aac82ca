"""Cut recordings that are too long for a model's input."""

import numpy as np

SEARCHED = 1 / 3  # share of a piece, at its end, that is searched for a quiet place
QUIET = 0.2  # seconds of a quiet place: longer than the closure of a plosive


def cut_at_quiet(waveform: np.ndarray, longest_seconds: float, sampling_rate: int) -> list[np.ndarray]:
    """Cut a recording into pieces of at most `longest_seconds`; joined, they are the recording again.

    Each piece ends in the middle of the quietest `QUIET` seconds in the last third of its longest possible length, so
    that a cut in a pause splits no word. Among equally quiet places the last one is taken.

    Args:
        waveform: float32 (samples,).
        longest_seconds: greatest length of a piece, more than `QUIET`.
        sampling_rate: sampling rate in Hz.
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
