"""Exact search of the nearest centroid."""

import torch

CHUNK = 8192  # frames whose distances to all centroids are in memory at once


def nearest_centroid(features: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The unit of each frame; if two centroids are equally near, the lower number.

    It works in float64: in float32, distances to neighbouring centroids can differ by less than the rounding.

    Args:
        features: `(frames, dim)`.
        centroids: `(num_units, dim)`.
    Returns:
        units `(frames,)` int64 and squared distances `(frames,)` float64.
    """
    centroids = centroids.double()
    norms = centroids.square().sum(1)
    units = []
    distances = []
    for chunk in features.split(CHUNK):
        chunk = chunk.double()
        least, unit = (norms - 2 * chunk @ centroids.T).min(1)  # the frame's own norm is the same for all
        units.append(unit)
        distances.append((least + chunk.square().sum(1)).clamp_min(0))
    return torch.cat(units), torch.cat(distances)
