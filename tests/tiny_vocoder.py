"""A tiny vocoder of the units of `tiny_units`, loud enough to be judged."""

from pathlib import Path

import torch
from tiny_units import IDENTITY

from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel

SIZES = {"embedding_dim": 8, "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "upsample_initial_channel": 32,
         "resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1, 3),)}


def tiny_vocoder(head: str = "istft", seed: int = 0, **config) -> UnitHifiGanModel:
    """Random weights; `config` changes fields of its configuration."""
    torch.manual_seed(seed)
    return UnitHifiGanModel(UnitHifiGanConfig(**{"num_units": 8, "units": IDENTITY, "head": head} | SIZES | config)).eval()


def save_tiny_vocoder(folder: Path, **config) -> Path:
    tiny_vocoder(**config).save_pretrained(folder)
    return folder
