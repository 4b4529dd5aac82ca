"""Deduplicated units, and the number of frames that each of them lasts."""

import torch
from torch import nn
from torch.nn.functional import relu
from torch.nn.utils.rnn import pad_sequence

from .masking import masked


class DurationPredictor(nn.Module):
    """Two convolutions and a projection (FastSpeech 2, Ren et al. 2021, arXiv 2006.04558), usual for unit vocoders."""

    def __init__(self, size: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(size, size, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.output = nn.Linear(size, 1)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log durations in frames, `(batch, units)`, of `hidden (batch, units, size)` and `mask (batch, units)`."""
        mask = mask[..., None].to(hidden.dtype)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = norm(relu(conv(masked(hidden, mask).transpose(1, 2)).transpose(1, 2)))
        return self.output(hidden).squeeze(-1)


def repeat_units(units: torch.Tensor, durations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each unit as often as it lasts.

    Args:
        units: `(batch, units)`.
        durations: frames that each lasts `(batch, units)`, 0 for padding.
    Returns:
        units per frame and their mask, both `(batch, frames)`.
    """
    rows = [row.repeat_interleave(count) for row, count in zip(units, durations, strict=True)]
    frames = pad_sequence(rows, batch_first=True)
    mask = torch.arange(frames.shape[1], device=units.device) < durations.sum(1, keepdim=True)
    return frames, mask


def deduplicate(units: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `repeat_units`.

    Args:
        units: one per frame, `(batch, frames)`.
        attention_mask: `(batch, frames)`, 1 for real frames; None: there is no padding.
    Returns:
        units without repetitions, and the frames that each lasts, both `(batch, units)` and padded with 0.
    """
    lengths = [units.shape[1]] * len(units) if attention_mask is None else attention_mask.sum(1).tolist()
    runs = [
        torch.unique_consecutive(row[:length], return_counts=True) for row, length in zip(units, lengths, strict=True)
    ]
    return (
        pad_sequence([names for names, _ in runs], batch_first=True),
        pad_sequence([counts for _, counts in runs], batch_first=True),
    )
