"""Vocoders of a few thousand parameters."""

import torch

from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel

IDENTITY = {"encoder": "mfcc", "layer": None, "num_units": 8, "centroids_sha256": "0" * 64}
SIZES = {"embedding_dim": 16, "upsample_initial_channel": 32, "hidden_size": 16, "intermediate_size": 48, "num_layers": 2,
         "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]]}


def tiny_vocoder(head: str, seed: int = 0, **fields) -> UnitHifiGanModel:
    """In evaluation mode, with weights so large that its waveforms are not near silence."""
    torch.manual_seed(seed)
    return UnitHifiGanModel(UnitHifiGanConfig(**{**SIZES, "num_units": 8, "units": IDENTITY, "head": head,
                                                 "initializer_range": 0.2, **fields})).eval()


def some_units(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 8, (batch, frames), generator=torch.Generator().manual_seed(seed))
