"""Set the padding of a row to zero."""

import torch


def masked(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`hidden` where `mask` is one, zero elsewhere; without a mask `hidden` itself.

    Args:
        hidden: `(batch, channels, time)`, or `(batch, time, channels)`.
        mask: ones and zeros, `(batch, 1, time)`, or `(batch, time, 1)`.
    """
    return hidden if mask is None else hidden * mask
