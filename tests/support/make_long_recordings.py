"""Write recordings with pauses for tests of segmentation."""

from pathlib import Path

import numpy as np
import soundfile
from make_corpus import noise


def long_recording(
    path: Path, bursts: int = 3, rate: int = 16_000, channels: int = 1, seed: int = 0, **options
) -> Path:
    """Bursts of noise of 1.2 s, 1.3 s, ... at -20 dB, a pause of 0.8 s before each and after the last."""
    pause = np.zeros((round(0.8 * rate), channels), np.float32)
    parts = [pause]
    for number in range(bursts):
        parts += [noise(1.2 + 0.1 * number, rate, channels, seed=100 * seed + number).reshape(-1, channels), pause]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), rate, **options)
    return path
