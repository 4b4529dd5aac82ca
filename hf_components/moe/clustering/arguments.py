"""How to find experts: the options of all algorithms, and their checks."""

from dataclasses import dataclass
from typing import Literal

from hf_components.runtime import SeedArguments, UserError, flag


@dataclass(kw_only=True)
class ClusteringArguments(SeedArguments):
    """Options of `cluster`; those of HDBSCAN have the meaning of the package `hdbscan`.

    spectral finds `num_experts` clusters of similar embeddings; hdbscan finds as many as are dense, at most
    `num_experts`; group makes one expert per known group, whatever `num_experts` is. HDBSCAN's cosine is the Euclidean
    distance of vectors of length one, and a retry halves `min_cluster_size`.
    """

    algorithm: Literal["spectral", "hdbscan", "group"] = flag(
        "spectral or dense clusters, or one expert per group", default="spectral", aliases=["--clustering_algorithm"]
    )
    num_experts: int = flag(
        "number of clusters; hdbscan: at most; group: ignored",
        default=4,
        min=2,
        needs={"algorithm": ("spectral", "hdbscan")},
    )
    reduce: Literal["none", "pca", "umap"] = flag("reduction after standardising", default="pca")
    reduce_dim: int = flag("dimensions that pca or umap keeps", default=50, min=2, needs={"reduce": ("pca", "umap")})
    target_entropy: float = flag("entropy of the soft labels: 0 one-hot, 1 uniform", default=0.3, above=0, below=1)

    min_cluster_size: int | None = flag(
        "hdbscan: least utterances of a cluster; default: 2 %% of the split train, at least 5",
        default=None,
        min=2,
        needs={"algorithm": "hdbscan"},
    )
    min_samples: int | None = flag(
        "hdbscan: neighbours that make a region dense; default: min_cluster_size, at most 50",
        default=None,
        min=1,
        needs={"algorithm": "hdbscan"},
    )
    metric: Literal["euclidean", "cosine", "manhattan", "chebyshev"] = flag(
        "hdbscan: distance", default="euclidean", needs={"algorithm": "hdbscan"}
    )
    hdbscan_algorithm: Literal[
        "best", "generic", "prims_kdtree", "prims_balltree", "boruvka_kdtree", "boruvka_balltree"
    ] = flag(
        "hdbscan: search of the minimum spanning tree; generic needs much memory",
        default="best",
        needs={"algorithm": "hdbscan"},
    )
    allow_single_cluster: bool = flag(
        "hdbscan: allow one cluster of all utterances", default=False, needs={"algorithm": "hdbscan"}
    )
    min_clusters: int | None = flag(
        "hdbscan: retry with fewer; default: num_experts", default=None, min=1, needs={"algorithm": "hdbscan"}
    )
    max_retries: int = flag("hdbscan: number of retries", default=3, min=0, needs={"algorithm": "hdbscan"})
    min_experts: int = flag(
        "hdbscan: fewer clusters than this are an error", default=2, min=1, needs={"algorithm": "hdbscan"}
    )
    no_reduce_experts: bool = flag(
        "hdbscan: fewer clusters than num_experts are an error", default=False, needs={"algorithm": "hdbscan"}
    )

    def check(self) -> None:
        """Raise UserError if two values contradict each other."""
        if self.algorithm == "hdbscan" and self.min_experts > self.num_experts:
            raise UserError(f"min_experts must be at most num_experts = {self.num_experts}, got {self.min_experts}")
