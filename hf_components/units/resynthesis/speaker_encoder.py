"""Whose voice speech has, as an embedding: a network that was trained to tell speakers apart."""

import importlib.util
from functools import cached_property

import numpy as np
import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from hf_components.runtime import packaged_weights
from hf_components.speech import SAMPLING_RATE

WINDOW = 160  # frames of 10 ms that the network reads at once
STEP = 77  # frames from one window to the next
LEAST_COVERED = 0.75  # of the last window
BANDS = 40
FFT = 400
HOP = SAMPLING_RATE // 100
LEAST_RMS = 10 ** (-30 / 20)  # quieter clips are amplified to it


class SpeakerNetwork(nn.Module):
    """An LSTM from power mel spectrograms `(windows, frames, 40)` to embeddings `(windows, 256)` of length 1."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(BANDS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=-1)


class SpeakerEncoder:
    """GE2E (Wan et al. 2018, https://arxiv.org/abs/1710.10467) with the weights of Resemblyzer, on the CPU.

    Only the weights of that package are used: its code needs more packages. It also removes pauses, which segments do
    not have.
    """

    missing: str | None  # why there is none

    def __init__(self):
        is_here = importlib.util.find_spec("resemblyzer") is not None
        self.missing = None if is_here else "resemblyzer not installed: pip install --no-deps resemblyzer==0.1.4"

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> np.ndarray | None:
        """The embedding `(256,)`, of length 1, of float32 `(samples,)` at 16 kHz.

        None without the package, or for silence. The cosine of two is 1 at most and 0 at least.
        """
        if self.missing or not waveform.any():
            return None
        windows = windows_of(power_mel(waveform), frames=1 + len(waveform) // HOP)
        mean = self._network(torch.from_numpy(windows)).mean(0).numpy()
        return mean / np.linalg.norm(mean)

    @cached_property
    def _network(self) -> SpeakerNetwork:
        file = packaged_weights("resemblyzer", "pretrained.pt")
        weights = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
        network = SpeakerNetwork()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        return network.eval()


def power_mel(waveform: np.ndarray) -> np.ndarray:
    """Power mel spectrogram `(frames, 40)`, without logarithm, of float32 `(samples,)`, amplified if it is quiet.

    A window of silence follows it.
    """
    waveform = torch.from_numpy(waveform * max(1.0, LEAST_RMS / np.sqrt(np.mean(waveform**2)))).float()
    waveform = nn.functional.pad(waveform, (0, WINDOW * HOP))
    spectrum = torch.stft(waveform, FFT, HOP, window=torch.hann_window(FFT), pad_mode="constant", return_complex=True)
    bank = mel_filter_bank(FFT // 2 + 1, BANDS, 0, SAMPLING_RATE / 2, SAMPLING_RATE, norm="slaney", mel_scale="slaney")
    return (spectrum.abs().square().T @ torch.from_numpy(bank).float()).numpy()


def windows_of(mel: np.ndarray, frames: int) -> np.ndarray:
    """Overlapping windows `(windows, 160, 40)` of the first frames of `mel (frames + 160, 40)`."""
    starts = range(0, max(1, frames - WINDOW + STEP + 1), STEP)
    starts = [start for start in starts if start == 0 or frames - start > LEAST_COVERED * WINDOW]
    return np.stack([mel[start : start + WINDOW] for start in starts])
