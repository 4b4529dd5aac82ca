"""Losses of a vocoder and of its discriminators."""

import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

from hf_components.unit_hifigan.discriminators import Features

MEL_WEIGHT = 45.0  # this and the next from HiFi-GAN (Kong et al. 2020, arXiv 2010.05646)
FEATURE_WEIGHT = 2.0
QUIETEST = 1e-5
MEL_RESOLUTIONS = ((256, 20), (512, 40), (1024, 80), (2048, 160))  # window in samples, mel bands


class MelLoss(nn.Module):
    """L1 distance of log-mel spectrograms, mean over resolutions, times 45.

    HiFi-GAN has one resolution. With several, no error can hide between the points of one time-frequency grid (as in
    the Descript codec, Kumar et al. 2023, arXiv 2306.06546).

    Args:
        sampling_rate: sampling rate in Hz.
    """

    def __init__(self, sampling_rate: int):
        super().__init__()
        for n_fft, bands in MEL_RESOLUTIONS:
            bank = mel_filter_bank(
                n_fft // 2 + 1, bands, 0, sampling_rate / 2, sampling_rate, norm="slaney", mel_scale="slaney"
            )
            self.register_buffer(f"bank_{n_fft}", torch.from_numpy(bank).float())
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft))

    def log_mel(self, waveform: torch.Tensor, n_fft: int) -> torch.Tensor:
        """Natural logarithm of magnitudes, `(batch, frames, bands)`, of `waveform (batch, samples)`."""
        spectrum = torch.stft(
            waveform.float(), n_fft, n_fft // 4, window=self.get_buffer(f"window_{n_fft}"), return_complex=True
        )
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        # Not a lower bound: its gradient would be 0 for a generator that starts almost silent.
        return (magnitude.transpose(1, 2) @ self.get_buffer(f"bank_{n_fft}") + QUIETEST).log()

    def forward(self, spoken: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The loss of two waveforms `(batch, samples)`, a scalar."""
        distances = [
            nn.functional.l1_loss(self.log_mel(spoken, n_fft), self.log_mel(real, n_fft))
            for n_fft, _ in MEL_RESOLUTIONS
        ]
        return MEL_WEIGHT * torch.stack(distances).mean()


def discriminator_loss(real: list[Features], spoken: list[Features]) -> torch.Tensor:
    """Least squares (Mao et al. 2017, arXiv 1611.04076), mean over discriminators; 0: always right, 0.5: undecided."""
    return torch.stack(
        [
            (1 - of_real[-1]).square().mean() + of_spoken[-1].square().mean()
            for of_real, of_spoken in zip(real, spoken, strict=True)
        ]
    ).mean()


def adversarial_loss(spoken: list[Features]) -> torch.Tensor:
    """Least squares, sum over discriminators: 0 if all of them take the spoken waveform for real."""
    return torch.stack([(1 - features[-1]).square().mean() for features in spoken]).sum()


def feature_loss(real: list[Features], spoken: list[Features]) -> torch.Tensor:
    """L1 distance of the discriminators' inner layers (Larsen et al. 2016, arXiv 1512.09300), weighted by 2."""
    return (
        FEATURE_WEIGHT
        * torch.stack(
            [
                nn.functional.l1_loss(layer, target)
                for of_real, of_spoken in zip(real, spoken, strict=True)
                for target, layer in zip(of_real[:-1], of_spoken[:-1], strict=True)
            ]
        ).sum()
    )


def r1_penalty(real: list[Features], waveform: torch.Tensor) -> torch.Tensor:
    """Half the squared gradient of the scores of real speech, mean over the batch.

    Mescheder et al. 2018, arXiv 1801.04406.

    Args:
        real: the discriminators' outputs for `waveform (batch, samples)`, which requires a gradient.
    """
    scores = torch.stack([features[-1].flatten(1).mean(1) for features in real]).sum()
    (gradient,) = torch.autograd.grad(scores, waveform, create_graph=True)
    return 0.5 * gradient.square().sum(1).mean()
