"""Cluster as asked for, or try every algorithm and take the clusters that are most stable."""

import logging
from dataclasses import replace

import numpy as np

from hf_components.moe.clustering.arguments import ClusteringArguments
from hf_components.moe.clustering.assignment import Clustering, assign_experts, reduce_embeddings
from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.moe.clustering.items import choose_items
from hf_components.moe.clustering.logs import only_errors
from hf_components.moe.clustering.summary import SMALL_CLUSTER, warn_of_weak_clusters
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

SIMPLEST_FIRST = ("kmeans", "ward", "gmm", "spectral", "hdbscan")


def cluster(embeddings: Embeddings, args: ClusteringArguments) -> Clustering:
    """Divide utterances among experts; see `assign_experts`, and `most_stable` for `--algorithm auto`.

    Raises:
        UserError: a value is out of range, there are too few data, or too few clusters are found.
    """
    args.check()
    points = reduce_embeddings(embeddings, args)
    if args.algorithm == "auto":
        return most_stable(embeddings, points, args)
    return assign_experts(embeddings, points, args)


def most_stable(embeddings: Embeddings, points: np.ndarray, args: ClusteringArguments) -> Clustering:
    """Try every algorithm, by speaker and by utterance unless `args.cluster_by` is given, and take the most stable.

    Stability alone can be had for nothing: a single cluster is perfectly stable, and so is a speaker apart from all
    others. So clusterings are refused that have fewer clusters than asked for, a cluster of a single speaker, or a
    cluster of less than 2 % of the utterances. If all are refused, the most stable one is taken with a warning. Of
    equals, to two decimals, the simpler one counts: the order is by speaker first, then that of `SIMPLEST_FIRST`.

    Args:
        points: result of `reduce_embeddings`.
    Returns:
        The clustering; its summary has `candidates`, the figures of all.
    Raises:
        UserError: no algorithm finds clusters.
    """
    ways = [args.cluster_by] if args.cluster_by else ["speaker", "utterance"]
    if not args.cluster_by and choose_items(embeddings, args.num_experts) == "utterance":
        ways = ["utterance"]
    candidates = []
    best = None
    best_rank = None
    for cluster_by in ways:
        for algorithm in SIMPLEST_FIRST:
            try:
                with only_errors():
                    found = assign_experts(
                        embeddings, points, replace(args, algorithm=algorithm, cluster_by=cluster_by)
                    )
            except UserError as error:
                candidates.append({"algorithm": algorithm, "cluster_by": cluster_by, "refused": str(error)})
                continue
            candidates.append(_row(found.summary, args.num_experts))
            rank = (candidates[-1]["refused"] is None, round(candidates[-1]["stability"] or 0, 2))
            if best is None or rank > best_rank:
                best = found
                best_rank = rank
    if best is None:
        raise UserError(f"no algorithm finds clusters; {candidates[0]['algorithm']}: {candidates[0]['refused']}")
    summary = best.summary
    summary["candidates"] = candidates
    taken = f"{summary['algorithm']} by {summary['cluster_by']}"
    if best_rank[0]:
        logger.info("--algorithm auto takes %s", taken)
    else:
        logger.warning(
            "no algorithm finds clusters of people; --algorithm auto takes the most stable, %s, which has %s; lower "
            "--num_experts or add speakers",
            taken,
            _degenerate(summary, args.num_experts),
        )
    warn_of_weak_clusters(embeddings, embeddings.splits == FIT_SPLIT, summary)
    return best


def _row(summary: dict, num_experts: int) -> dict:
    return {
        "algorithm": summary["algorithm"],
        "cluster_by": summary["cluster_by"],
        "stability": summary["stability"]["adjusted_rand"],
        "sizes": summary["sizes"],
        "speakers_per_cluster": summary["speakers_per_cluster"],
        "agreement_nmi": summary["agreement_nmi"],
        "refused": _degenerate(summary, num_experts),
    }


def _degenerate(summary: dict, num_experts: int) -> str | None:
    """Why the clusters are none of people, in words; None if they are."""
    speakers = summary["speakers_per_cluster"]
    if summary["num_experts"] < num_experts:
        return f"{summary['num_experts']} clusters instead of {num_experts}"
    if any(speakers) and min(speakers) < 2:
        return "a cluster of a single speaker"
    if min(summary["sizes"]) < SMALL_CLUSTER * np.sum(summary["sizes"]):
        return f"a cluster of {min(summary['sizes'])} utterances"
    return None
