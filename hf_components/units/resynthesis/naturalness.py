"""How natural speech sounds, without a reference: DNSMOS, a network that predicts what listeners would say."""

import importlib.util
from functools import cached_property

import numpy as np

from hf_components.runtime import packaged_weights
from hf_components.speech import SAMPLING_RATE

SECONDS = 9.01  # window of the network
STEP = 1.0  # seconds from one window to the next
# From the network's scale to the overall rating (1 to 5) of listeners, see the repository of the DNS challenge.
TO_RATING = np.polynomial.Polynomial([0.04602535, 1.11546468, -0.06766283])
OVERALL = 2  # of the network's outputs: signal, background, overall


class Dnsmos:
    """DNSMOS P.835, overall (Reddy et al. 2022, https://arxiv.org/abs/2110.01763), on the CPU.

    Only the network of the package speechmos is used: its code needs more packages.
    """

    missing: str | None  # why there is none

    def __init__(self):
        needs = [name for name in ("speechmos", "onnxruntime") if importlib.util.find_spec(name) is None]
        self.missing = f"{' and '.join(needs)} not installed: pip install 'underheard[judges]'" if needs else None

    def __call__(self, waveform: np.ndarray) -> float | None:
        """The rating of float32 `(samples,)` at 16 kHz; None without the packages, or for silence.

        A clip that is shorter than the network's window is repeated, as in the original.
        """
        if self.missing or not waveform.any():
            return None
        heard = round(SECONDS * SAMPLING_RATE)
        waveform = np.tile(waveform, -(-heard // len(waveform))) if len(waveform) < heard else waveform
        starts = range(0, len(waveform) - heard + 1, round(STEP * SAMPLING_RATE))
        windows = np.stack([waveform[start : start + heard] for start in starts]).clip(-1, 1).astype(np.float32)
        return float(TO_RATING(self._session.run(None, {"input_1": windows})[0][:, OVERALL]).mean())

    @cached_property
    def _session(self):
        from onnxruntime import InferenceSession

        file = packaged_weights("speechmos", "dnsmos_models/sig_bak_ovr.onnx")
        return InferenceSession(file, providers=["CPUExecutionProvider"])
