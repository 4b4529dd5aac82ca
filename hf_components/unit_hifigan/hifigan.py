"""Generator of HiFi-GAN (Kong et al. 2020, arXiv 2010.05646): transposed convolutions up to the sampling rate.

Parameters have the same names as in transformers' `SpeechT5HifiGan`, so weights can be exchanged.
"""

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from .configuration_unit_hifigan import UnitHifiGanConfig
from .masking import masked


class ResidualBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each pair with a residual connection.

    Args:
        channels: channels of input and output.
        kernel_size: samples that each convolution sees.
        dilations: one for each pair.
        slope: slope of the leaky ReLU below zero.
    """

    def __init__(self, channels: int, kernel_size: int, dilations: list[int], slope: float):
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding="same") for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, padding="same") for _ in dilations)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, channels, time)` to the same; `mask (batch, 1, time)`."""
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            inner = conv1(masked(leaky_relu(hidden, self.slope), mask))
            hidden = hidden + conv2(masked(leaky_relu(inner, self.slope), mask))
        return hidden


class HifiGanHead(nn.Module):
    """The whole generator: each transposed convolution is followed by the mean of parallel residual blocks.

    Args:
        input_size: channels of what it gets per frame.
    """

    def __init__(self, config: UnitHifiGanConfig, input_size: int):
        super().__init__()
        self.slope = config.leaky_relu_slope
        self.rates = config.upsample_rates
        channels = config.upsample_initial_channel
        self.conv_pre = nn.Conv1d(input_size, channels, 7, padding=3)
        self.upsampler = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel_size in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.upsampler.append(
                nn.ConvTranspose1d(
                    channels, channels // 2, kernel_size, stride=rate, padding=(kernel_size - rate) // 2
                )
            )
            channels //= 2
            self.resblocks.extend(
                ResidualBlock(channels, size, dilations, self.slope)
                for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            )
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Waveform `(batch, frames * hop_length)` of `hidden (batch, input_size, frames)`.

        With `mask (batch, 1, frames)` the padding is zero before every convolution. So a padded row has the same
        waveform as an unpadded one.
        """
        hidden = self.conv_pre(masked(hidden, mask))
        blocks = len(self.resblocks) // len(self.upsampler)
        for stage, (upsample, rate) in enumerate(zip(self.upsampler, self.rates, strict=True)):
            hidden = upsample(masked(leaky_relu(hidden, self.slope), mask))
            mask = None if mask is None else mask.repeat_interleave(rate, dim=-1)
            parallel = self.resblocks[stage * blocks : (stage + 1) * blocks]
            hidden = sum(block(hidden, mask) for block in parallel) / blocks
        # The reference uses PyTorch's default slope here.
        return masked(torch.tanh(self.conv_post(masked(leaky_relu(hidden), mask))), mask).squeeze(1)

    def normalised_layers(self) -> list[nn.Module]:
        """Convolutions that are trained with weight normalisation."""
        return [module for module in self.modules() if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))]
