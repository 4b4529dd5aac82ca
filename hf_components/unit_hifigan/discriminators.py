"""Discriminators that the generator is trained against: by period (HiFi-GAN) and by resolution (UnivNet).

They are never saved with a model.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
RESOLUTIONS = (512, 1024, 2048)
SLOPE = 0.1

Features = list[torch.Tensor]  # outputs of all layers of a discriminator; the last are its scores


class PeriodDiscriminator(nn.Module):
    """Folds the waveform into rows of one period (Kong et al. 2020, arXiv 2010.05646, section 2.3).

    Args:
        period: samples per row.
        channels: width of the first layer; the last is 32 times wider (in the paper 32 and 1024).
    """

    def __init__(self, period: int, channels: int):
        super().__init__()
        self.period = period
        sizes = [1, channels, 4 * channels, 16 * channels, 32 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(size_in, size_out, (5, 1), (3, 1), (2, 0)))
            for size_in, size_out in zip(sizes, sizes[1:], strict=False)
        )
        self.layers.append(weight_norm(nn.Conv2d(sizes[-1], sizes[-1], (5, 1), padding=(2, 0))))
        self.scores = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: torch.Tensor) -> Features:
        """Features of `waveform (batch, samples)`."""
        folded = pad(waveform[:, None], (0, -waveform.shape[-1] % self.period), mode="reflect")
        return run_layers(folded.unflatten(-1, (-1, self.period)), self.layers, self.scores)


class ResolutionDiscriminator(nn.Module):
    """Sees the magnitude spectrogram (Jang et al. 2021, arXiv 2106.07889, section 2.2).

    Args:
        n_fft: window in samples; the hop is a quarter of it.
        channels: width of every layer; 32 in the paper.
    """

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        strides = (1, 2, 2, 2)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels if i else 1, channels, (3, 9), (1, stride), (1, 4)))
            for i, stride in enumerate(strides)
        )
        self.layers.append(weight_norm(nn.Conv2d(channels, channels, 3, padding=1)))
        self.scores = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveform: torch.Tensor) -> Features:
        """Features of `waveform (batch, samples)`."""
        spectrum = torch.stft(waveform.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        # Not abs: R1 needs its second derivative, which is infinite at 0.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return run_layers(magnitude.transpose(1, 2)[:, None], self.layers, self.scores)  # (batch, 1, frames, bins)


class Discriminators(nn.Module):
    """All discriminators of both kinds.

    Args:
        period_channels, resolution_channels: width of the first layers; 32 and 32 in the papers, less on a CPU.
        periods: samples per row of each discriminator by period.
        resolutions: window in samples of each discriminator by resolution.
    """

    def __init__(
        self,
        period_channels: int = 32,
        resolution_channels: int = 32,
        periods: Sequence[int] = PERIODS,
        resolutions: Sequence[int] = RESOLUTIONS,
    ):
        super().__init__()
        self.members = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, period_channels) for period in periods),
                *(ResolutionDiscriminator(n_fft, resolution_channels) for n_fft in resolutions),
            ]
        )

    def forward(self, waveform: torch.Tensor) -> list[Features]:
        """Features of `waveform (batch, samples)` by each discriminator."""
        return [member(waveform) for member in self.members]


def run_layers(hidden: torch.Tensor, layers: nn.ModuleList, scores: nn.Module) -> Features:
    """Outputs of all layers, and last the scores, of an image `(batch, 1, height, width)`."""
    features = []
    for layer in layers:
        hidden = leaky_relu(layer(hidden), SLOPE)
        features.append(hidden)
    return [*features, scores(hidden)]
