"""Exact search of the nearest centroid."""

import torch

CHUNK = 8192  # frames whose distances to all centroids are in memory at once


def where_float64_is(values: torch.Tensor) -> torch.Tensor:
    """A tensor of any shape where float64 can be computed: on CUDA as it is, else on the CPU. Apple's GPU has none."""
    return values if values.is_cuda else values.cpu()


def nearest_centroid(features: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The unit of each frame; if two centroids are equally near, the lower number.

    It works in float64: in float32, distances to neighbouring centroids can differ by less than the rounding.

    Args:
        features: `(frames, dim)`.
        centroids: `(num_units, dim)`.
    Returns:
        units `(frames,)` int64, and squared distances `(frames,)` float64, which are on the CPU unless on CUDA.
    """
    centroids = where_float64_is(centroids).double()
    norms = centroids.square().sum(1)
    units = []
    distances = []
    for chunk in features.split(CHUNK):
        chunk = where_float64_is(chunk).double()
        least, unit = (norms - 2 * chunk @ centroids.T).min(1)  # the frame's own norm is the same for all
        units.append(unit)
        distances.append((least + chunk.square().sum(1)).clamp_min(0))
    return torch.cat(units).to(features.device), torch.cat(distances)
