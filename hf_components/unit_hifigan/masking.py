"""What lies behind the end of a padded row is zero."""

import torch


def masked(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`hidden` where `mask` is one, zero elsewhere; without a mask all of it."""
    return hidden if mask is None else hidden * mask
