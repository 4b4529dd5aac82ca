"""Vocoders of a few thousand parameters for the units of `tiny_units`, loud enough to be judged."""

from pathlib import Path

import torch
from tiny_units import IDENTITY

from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel

SIZES = {
    "embedding_dim": 16,
    "upsample_initial_channel": 32,
    "hidden_size": 16,
    "intermediate_size": 48,
    "num_layers": 2,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 2]],
}


def tiny_vocoder(head: str = "istft", seed: int = 0, **config) -> UnitHifiGanModel:
    """Random weights, so large that its waveforms are not near silence; `config` changes fields of its
    configuration."""
    torch.manual_seed(seed)
    return UnitHifiGanModel(
        UnitHifiGanConfig(
            **{**SIZES, "num_units": 8, "units": IDENTITY, "head": head, "initializer_range": 0.2, **config}
        )
    ).eval()


def save_tiny_vocoder(folder: Path, **config) -> Path:
    tiny_vocoder(**config).save_pretrained(folder)
    return folder


def some_units(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 8, (batch, frames), generator=torch.Generator().manual_seed(seed))
