"""How to find experts: the options of all algorithms, and their checks."""

from dataclasses import dataclass
from typing import Literal

from hf_components.runtime import SeedArguments, UserError, flag

CLUSTERED = ("kmeans", "ward", "gmm", "spectral", "hdbscan", "auto")  # all but group
DENSE = ("hdbscan", "auto")


@dataclass(kw_only=True)
class ClusteringArguments(SeedArguments):
    """Options of `cluster`; those of HDBSCAN have the meaning of the package `hdbscan`.

    kmeans, ward, gmm and spectral find `num_experts` clusters of similar embeddings: kmeans around as many centres;
    ward by merging what is alike; gmm (a Gaussian mixture) around centres of unequal width; spectral in a graph of
    nearest neighbours, where a cluster may have any shape. hdbscan finds as many as are dense, at most `num_experts`.
    group makes one expert per known group, whatever `num_experts` is. auto tries all but group, and takes the
    clusters that samples of the speakers confirm best. HDBSCAN's cosine is the Euclidean distance of vectors of length
    one, and a retry halves `min_cluster_size`.

    By speaker, the speakers' mean embeddings are clustered, and all utterances of a speaker have one label. That is
    the default, except for hdbscan, if "train" has three known speakers per expert or more, with half of its
    utterances or more. auto then tries both ways.
    """

    algorithm: Literal["kmeans", "ward", "gmm", "spectral", "hdbscan", "group", "auto"] = flag(
        "kmeans: around centres; ward: alike ones merged; gmm: centres of unequal width; spectral: neighbours; "
        "hdbscan: dense regions; group: one per known group; auto: the most stable of all but group",
        default="kmeans",
        aliases=["--clustering_algorithm"],
    )
    cluster_by: Literal["speaker", "utterance"] | None = flag(
        "speaker: one label for all utterances of a speaker; default: speaker, if three per expert are known and not "
        "for hdbscan; auto: both",
        default=None,
        needs={"algorithm": CLUSTERED},
    )
    num_experts: int = flag(
        "number of clusters; hdbscan: at most; group: ignored", default=4, min=2, needs={"algorithm": CLUSTERED}
    )
    remove_duration: bool = flag("remove from embeddings what follows an utterance's length", default=True)
    reduce: Literal["none", "pca", "umap"] = flag("reduction after standardising", default="pca")
    reduce_dim: int = flag("dimensions that pca or umap keeps", default=50, min=2, needs={"reduce": ("pca", "umap")})
    target_entropy: float = flag("entropy of the soft labels: 0 one-hot, 1 uniform", default=0.3, above=0, below=1)

    min_cluster_size: int | None = flag(
        "hdbscan: least utterances of a cluster; default: 2 %% of the split train, at least 5",
        default=None,
        min=2,
        needs={"algorithm": DENSE},
    )
    min_samples: int | None = flag(
        "hdbscan: neighbours that make a region dense; default: min_cluster_size, at most 50",
        default=None,
        min=1,
        needs={"algorithm": DENSE},
    )
    metric: Literal["euclidean", "cosine", "manhattan", "chebyshev"] = flag(
        "hdbscan: distance", default="euclidean", needs={"algorithm": DENSE}
    )
    hdbscan_algorithm: Literal[
        "best", "generic", "prims_kdtree", "prims_balltree", "boruvka_kdtree", "boruvka_balltree"
    ] = flag(
        "hdbscan: search of the minimum spanning tree; generic needs much memory",
        default="best",
        needs={"algorithm": DENSE},
    )
    allow_single_cluster: bool = flag(
        "hdbscan: allow one cluster of all utterances", default=False, needs={"algorithm": DENSE}
    )
    min_clusters: int | None = flag(
        "hdbscan: retry with fewer; default: num_experts", default=None, min=1, needs={"algorithm": DENSE}
    )
    max_retries: int = flag("hdbscan: number of retries", default=3, min=0, needs={"algorithm": DENSE})
    min_experts: int = flag(
        "hdbscan: fewer clusters than this are an error", default=2, min=1, needs={"algorithm": DENSE}
    )
    no_reduce_experts: bool = flag(
        "hdbscan: fewer clusters than num_experts are an error", default=False, needs={"algorithm": DENSE}
    )

    def check(self) -> None:
        """Raise UserError if two values contradict each other."""
        if self.algorithm in DENSE and self.min_experts > self.num_experts:
            raise UserError(f"min_experts must be at most num_experts = {self.num_experts}, got {self.min_experts}")
