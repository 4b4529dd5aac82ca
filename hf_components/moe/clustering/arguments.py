"""How to find experts: the options of all algorithms, their checks, and a word on those without effect."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Literal

from hf_components.runtime import SeedArguments, UserError, flag

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
class ClusteringArguments(SeedArguments):
    """Options of `cluster`; those of HDBSCAN have the meaning of the package `hdbscan`."""

    algorithm: Literal["spectral", "hdbscan", "group"] = flag(
        "spectral: num_experts clusters of similar embeddings; hdbscan: as many as are "
        "dense; group: one expert "
        "per known group",
        default="spectral",
        aliases=["--clustering_algorithm"],
    )
    num_experts: int = flag(
        "number of clusters; with hdbscan the most, with group the number of groups counts", default=4, min=2
    )
    reduce: Literal["none", "pca", "umap"] = flag("reduction after standardising", default="pca")
    reduce_dim: int = flag("dimensions that pca or umap keeps", default=50, min=2)
    target_entropy: float = flag(
        "mean entropy of the soft labels, between 0 (one-hot) and 1 (uniform); sets their temperature",
        default=0.3,
        above=0,
        below=1,
    )

    min_cluster_size: int | None = flag(
        "hdbscan: utterances that make a cluster; default: 2 %% of the split train, at least 5", default=None, min=2
    )
    min_samples: int | None = flag(
        "hdbscan: neighbours that make a region dense, more make more noise; default: min_cluster_size, at most 50",
        default=None,
        min=1,
    )
    metric: Literal["euclidean", "cosine", "manhattan", "chebyshev"] = flag(
        "hdbscan: distance; cosine is the Euclidean distance of vectors of length one", default="euclidean"
    )
    hdbscan_algorithm: Literal[
        "best", "generic", "prims_kdtree", "prims_balltree", "boruvka_kdtree", "boruvka_balltree"
    ] = flag(
        "hdbscan: how the minimum spanning tree is found; generic holds all pairs of utterances in memory",
        default="best",
    )
    allow_single_cluster: bool = flag("hdbscan: let all utterances be one cluster instead of noise", default=False)
    min_clusters: int | None = flag(
        "hdbscan: with fewer clusters try again with half the min_cluster_size; default: num_experts",
        default=None,
        min=1,
    )
    max_retries: int = flag("hdbscan: how often to try again", default=3, min=0)
    min_experts: int = flag(
        "hdbscan: with fewer clusters than num_experts, down to how many the experts are reduced", default=2, min=1
    )
    no_reduce_experts: bool = flag("hdbscan: stop if there are fewer clusters than num_experts", default=False)

    def check(self) -> None:
        """Warn of options that were changed and have no effect.

        Raises:
            UserError: two values do not go together.
        """
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
