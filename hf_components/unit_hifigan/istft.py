"""Generator of Vocos (Siuzdak 2023, arXiv 2306.00814): ConvNeXt blocks at the frame rate and an inverse STFT."""

import torch
from torch import nn
from torch.nn.functional import gelu, pad

from .configuration_unit_hifigan import UnitHifiGanConfig
from .masking import masked

LOUDEST = 1e2  # greatest magnitude of a bin, so that a wrong prediction stays finite after exp


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution and a position-wise network (Liu et al. 2022, arXiv 2201.03545), in one dimension."""

    def __init__(self, size: int, intermediate_size: int, scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(size, size, 7, padding=3, groups=size)
        self.norm = nn.LayerNorm(size, eps=1e-6)
        self.expand = nn.Linear(size, intermediate_size)
        self.contract = nn.Linear(intermediate_size, size)
        self.scale = nn.Parameter(torch.full((size,), scale))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, frames, size)` to the same; `mask (batch, frames, 1)`."""
        inner = self.depthwise(masked(hidden, mask).transpose(1, 2)).transpose(1, 2)
        return hidden + self.scale * self.contract(gelu(self.expand(self.norm(inner))))


class IstftHead(nn.Module):
    """The whole generator: ConvNeXt blocks predict a spectrum per frame, and overlap-add makes it a waveform.

    Args:
        input_size: channels of what it gets per frame.
    """

    def __init__(self, config: UnitHifiGanConfig, input_size: int):
        super().__init__()
        self.hop_length = config.hop_length
        self.n_fft = config.n_fft
        self.conv_pre = nn.Conv1d(input_size, config.hidden_size, 7, padding=3)
        self.norm_pre = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.hidden_size, config.intermediate_size, 1 / config.num_layers)
            for _ in range(config.num_layers)
        )
        self.norm_post = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.spectrum = nn.Linear(config.hidden_size, config.n_fft + 2)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Waveform `(batch, frames * hop_length)` of `hidden (batch, input_size, frames)`.

        With `mask (batch, 1, frames)` a padded row has the same waveform as an unpadded one.
        """
        hidden = self.norm_pre(self.conv_pre(masked(hidden, mask)).transpose(1, 2))  # (batch, frames, hidden_size)
        mask = None if mask is None else mask.transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, mask)
        log_magnitude, phase = self.spectrum(self.norm_post(hidden)).float().chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=LOUDEST), phase)  # (batch, frames, bins)
        return self.inverse_stft(spectrum, mask)

    def inverse_stft(self, spectrum: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Overlap-add with the squared window divided out (Griffin and Lim 1984).

        The centre of frame i's window is the centre of samples `[i * hop_length, (i + 1) * hop_length)`.

        Args:
            spectrum: complex `(batch, frames, n_fft / 2 + 1)`.
            mask: `(batch, frames, 1)`, 1 for real frames; None: there is no padding.
        Returns:
            `(batch, frames * hop_length)`.
        """
        window = torch.hann_window(self.n_fft, device=spectrum.device)
        frames = torch.fft.irfft(spectrum, self.n_fft) * window
        weights = (window * window).expand(1, frames.shape[1], -1)
        if mask is not None:
            frames = frames * mask
            weights = weights * mask
        waveform = self.overlap_add(frames)
        weight = self.overlap_add(weights)
        waveform = waveform / weight.clamp(min=1e-8)
        return waveform if mask is None else waveform * self.samples_of(mask)  # silence after a padded row

    def overlap_add(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, frames, n_fft)` to `(batch, frames * hop_length)`, cut at both ends."""
        parts = frames.unflatten(-1, (-1, self.hop_length))
        count = parts.shape[2]
        total = sum(pad(parts[:, :, k], (0, 0, k, count - 1 - k)) for k in range(count)).flatten(1)
        over = (self.n_fft - self.hop_length) // 2
        return total[:, over : total.shape[1] - over]

    def samples_of(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over frames `(batch, frames, 1)` as one over samples `(batch, frames * hop_length)`."""
        return mask.squeeze(-1).repeat_interleave(self.hop_length, dim=-1)

    def normalised_layers(self) -> list[nn.Module]:
        """No layer is trained with weight normalisation."""
        return []
