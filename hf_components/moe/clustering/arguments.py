"""How to find experts: the options of all algorithms, their checks, and a word on those without effect."""

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Literal

from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

HDBSCAN_ONLY = (
    "min_clusters",
    "min_cluster_size",
    "min_samples",
    "metric",
    "allow_single_cluster",
    "hdbscan_algorithm",
    "max_retries",
    "min_experts",
    "no_reduce_experts",
)


@dataclass(kw_only=True)
class ClusteringArguments:
    """Options of `cluster`; those of HDBSCAN have the meaning of the package `hdbscan`."""

    algorithm: Literal["spectral", "hdbscan", "group"] = field(
        default="spectral",
        metadata={
            "help": "spectral: num_experts clusters of similar embeddings; hdbscan: as many as are "
            "dense; group: one expert "
            "per known group",
            "aliases": ["--clustering_algorithm"],
        },
    )
    num_experts: int = field(
        default=4,
        metadata={"help": "number of clusters; with hdbscan the most, with group the number of groups counts"},
    )
    reduce: Literal["none", "pca", "umap"] = field(default="pca", metadata={"help": "reduction after standardising"})
    reduce_dim: int = field(default=50, metadata={"help": "dimensions that pca or umap keeps"})
    target_entropy: float = field(
        default=0.3,
        metadata={
            "help": "mean entropy of the soft labels, between 0 (one-hot) and 1 (uniform); sets their temperature"
        },
    )
    seed: int = field(default=42, metadata={"help": "seed of reduction, clustering and plot"})

    min_cluster_size: int | None = field(
        default=None,
        metadata={"help": "hdbscan: utterances that make a cluster; default: 2 %% of the split train, at least 5"},
    )
    min_samples: int | None = field(
        default=None,
        metadata={
            "help": "hdbscan: neighbours that make a region dense, more make more noise; default: "
            "min_cluster_size, at most 50"
        },
    )
    metric: Literal["euclidean", "cosine", "manhattan", "chebyshev"] = field(
        default="euclidean",
        metadata={"help": "hdbscan: distance; cosine is the Euclidean distance of vectors of length one"},
    )
    hdbscan_algorithm: Literal[
        "best", "generic", "prims_kdtree", "prims_balltree", "boruvka_kdtree", "boruvka_balltree"
    ] = field(
        default="best",
        metadata={
            "help": "hdbscan: how the minimum spanning tree is found; generic holds all pairs of utterances in memory"
        },
    )
    allow_single_cluster: bool = field(
        default=False, metadata={"help": "hdbscan: let all utterances be one cluster instead of noise"}
    )
    min_clusters: int | None = field(
        default=None,
        metadata={
            "help": "hdbscan: with fewer clusters try again with half the min_cluster_size; default: num_experts"
        },
    )
    max_retries: int = field(default=3, metadata={"help": "hdbscan: how often to try again"})
    min_experts: int = field(
        default=2,
        metadata={"help": "hdbscan: with fewer clusters than num_experts, down to how many the experts are reduced"},
    )
    no_reduce_experts: bool = field(
        default=False, metadata={"help": "hdbscan: stop if there are fewer clusters than num_experts"}
    )

    def check(self) -> None:
        """Warn of options that were changed and have no effect.

        Raises:
            UserError: a value is out of its range.
        """
        least = {
            "num_experts": 2,
            "reduce_dim": 2,
            "min_cluster_size": 2,
            "min_samples": 1,
            "min_clusters": 1,
            "max_retries": 0,
            "min_experts": 1,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name} must be at least {bound}, got {value}")
        if not 0 < self.target_entropy < 1:
            raise UserError(f"target_entropy must lie between 0 (one-hot) and 1 (uniform), got {self.target_entropy}")
        if self.algorithm == "hdbscan" and self.min_experts > self.num_experts:
            raise UserError(f"min_experts must be at most num_experts = {self.num_experts}, got {self.min_experts}")
        if self.algorithm != "hdbscan":
            self._warn_of_ignored(HDBSCAN_ONLY, f"--algorithm {self.algorithm}")
        if self.reduce == "none":
            self._warn_of_ignored(("reduce_dim",), "--reduce none")

    def _warn_of_ignored(self, names: tuple[str, ...], reason: str) -> None:
        defaults = {option.name: option.default for option in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                logger.warning("--%s is ignored with %s; leave it out", name, reason)
