"""Mini-batch k-means that takes one batch at a time, can be saved at any batch, and needs the memory of one batch."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_components.acoustic_units import nearest_centroid, where_float64_is
from hf_components.runtime import UserError, atomic_write, damage_named

DEAD = 0.01  # a unit with less than this part of an even share of the frames is revived


class Assigned(NamedTuple):
    """Sums over the frames of a batch, by their nearest centroid; on the CPU in float64.

    Args:
        sums: sum of the frames of each unit `(num_units, dim)`.
        counts: number of frames of each unit `(num_units,)`.
        inertia: sum of squared distances.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    inertia: float


def assign(features: torch.Tensor, centroids: torch.Tensor) -> Assigned:
    """Assign frames `(frames, dim)` to centroids `(num_units, dim)`."""
    features = where_float64_is(features)
    centroids = centroids.to(features.device)
    units, distances = nearest_centroid(features, centroids)
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=features.device)
    sums.index_add_(0, units, features.double())
    return Assigned(sums.cpu(), torch.bincount(units, minlength=len(centroids)).double().cpu(), distances.sum().item())


@dataclass
class MiniBatchKMeans:
    """Centroids, and the complete state of the learning.

    A step moves each centroid to the running mean of the frames that were nearest to it in this pass (Sculley 2010,
    "Web-scale k-means clustering"). Each pass starts a new mean, so the earlier position of a centroid has no weight:
    with one step per pass this is Lloyd's algorithm.

    Args:
        centroids: `(num_units, dim)` float64.
        steps: finished steps of this pass.
        batches: finished batches of the unfinished step.
        passes: mean squared distance per frame in each finished pass.
        revived: number of units with a new place after each finished pass.
    """

    centroids: torch.Tensor
    steps: int = 0
    batches: int = 0
    passes: list[float] = field(default_factory=list)
    revived: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.counts = torch.zeros(len(self.centroids), dtype=torch.float64)
        self.step = Assigned(torch.zeros_like(self.centroids), torch.zeros_like(self.counts), 0.0)
        self.inertia = 0.0

    def add(self, assigned: Assigned) -> None:
        """Add one batch of the step."""
        self.step = Assigned(
            self.step.sums + assigned.sums, self.step.counts + assigned.counts, self.step.inertia + assigned.inertia
        )
        self.batches += 1

    def end_step(self) -> None:
        """Move the centroids."""
        self.counts += self.step.counts
        met = self.step.counts > 0
        shift = self.step.sums[met] - self.step.counts[met, None] * self.centroids[met]
        self.centroids[met] += shift / self.counts[met, None]
        self.inertia += self.step.inertia
        self.step = Assigned(torch.zeros_like(self.centroids), torch.zeros_like(self.counts), 0.0)
        self.steps = self.steps + 1
        self.batches = 0

    def end_pass(self) -> torch.Tensor:
        """End the pass; returns which units had hardly any frames `(num_units,)`."""
        frames = self.counts.sum().item()
        self.passes.append(self.inertia / frames)
        dead = self.counts < DEAD * frames / len(self.counts)
        self.counts = torch.zeros_like(self.counts)
        self.inertia = 0.0
        self.steps = 0
        return dead

    def save(self, file: Path) -> None:
        """Write the complete state; a reader finds the old file or the new one."""
        tensors = {
            "centroids": self.centroids,
            "counts": self.counts,
            "step_sums": self.step.sums,
            "step_counts": self.step.counts,
            "inertia": torch.tensor([self.inertia, self.step.inertia], dtype=torch.float64),
        }
        position = {"steps": self.steps, "batches": self.batches, "passes": self.passes, "revived": self.revived}
        save_tensors(tensors, file, {"position": json.dumps(position)})

    @classmethod
    def load(cls, file: Path) -> "MiniBatchKMeans":
        """Read what `save` wrote."""
        with damage_named(file, "delete it to learn from the start"), safe_open(file, "pt") as opened:
            kmeans = cls(opened.get_tensor("centroids"), **json.loads(opened.metadata()["position"]))
            kmeans.counts = opened.get_tensor("counts")
            kmeans.inertia, step_inertia = opened.get_tensor("inertia").tolist()
            kmeans.step = Assigned(opened.get_tensor("step_sums"), opened.get_tensor("step_counts"), step_inertia)
        return kmeans


def save_tensors(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors; a reader finds a complete file or none."""
    with atomic_write(file) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def kmeans_plus_plus(
    sample: torch.Tensor, num_units: int, seed: int, living: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose frames of a sample that are far from each other (Arthur and Vassilvitskii 2007), as scikit-learn does.

    A few frames are drawn at random, with a probability that grows with the squared distance to the chosen ones; the
    best of them is chosen next.

    Args:
        sample: `(frames, dim)`.
        num_units: number of frames to choose.
        living: centroids `(n, dim)` that exist already.
    Returns:
        `(num_units, dim)` float64.
    Raises:
        UserError: the sample has fewer different frames.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = sample.double().cpu()
    norms = sample.square().sum(1)
    trials = 2 + int(math.log(num_units))
    chosen: list[int] = []
    if living is None:
        chosen.append(int(torch.randint(len(sample), (1,), generator=generator)))
        nearest = _squared_distances(sample[chosen], sample, norms)[0]
    else:
        nearest = nearest_centroid(sample, living)[1]
    while len(chosen) < num_units:
        cumulated = nearest.cumsum(0)
        if not cumulated[-1] > 0:
            raise UserError(
                f"{num_units} units need as many different frames, but the {len(sample)} frames sampled of the corpus "
                f"hold {len(chosen)}; lower --num_units, or is the corpus silent?"
            )
        drawn = torch.rand(trials, generator=generator, dtype=torch.float64) * cumulated[-1]
        candidates = torch.searchsorted(cumulated, drawn, right=True).clamp_max(len(sample) - 1)
        distances = torch.minimum(nearest, _squared_distances(sample[candidates], sample, norms))
        best = int(distances.sum(1).argmin())
        chosen.append(int(candidates[best]))
        nearest = distances[best]
        nearest[sample.eq(sample[chosen[-1]]).all(1)] = 0  # exactly 0, despite rounding
    return sample[chosen]


def _squared_distances(points: torch.Tensor, sample: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """(points, frames)"""
    return (points.square().sum(1)[:, None] - 2 * points @ sample.T + norms).clamp_min(0)
