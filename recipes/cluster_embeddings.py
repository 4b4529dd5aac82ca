"""Cluster utterance embeddings into experts, with soft labels whose entropy is calibrated.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/cluster_embeddings.py --config recipes/configs/cluster_embeddings/default.yaml \\
    --embedding_dir runs/moe/embeddings --output_dir runs/moe/clusters
"""

import functools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet
from rich.table import Table

from hf_components.moe.clustering import (
    FIT_SPLIT,
    Clustering,
    ClusteringArguments,
    Embeddings,
    cluster,
    labels_table,
    load_embeddings,
    to_plane,
)
from hf_components.reporting import drawn_points, plot_clusters, show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    flag,
    parse_arguments,
    peak_memory_gib,
    run_as_stage,
    run_recipe,
    write_json,
)

logger = logging.getLogger(__name__)

CLUSTERABLE = ("mean", "flatten", "gradient")  # poolings with one vector for each utterance


@dataclass(kw_only=True)
class Arguments(ClusteringArguments, RecipeArguments, PlotArguments):
    embedding_dir: str = flag("output folder of extract_embeddings")
    plot_method: Literal["pca", "umap"] = flag(
        "projection to two dimensions for the plot", default="pca", needs="plot"
    )


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    # What is trained on the clusters stays as it is if only their plot is another one.
    draw = functools.partial(plot_again, args)
    derive = {"plot": draw, "plot_method": draw} if args.plot else {}
    summary = run_as_stage(produce, args, inputs=[args.embedding_dir], alone=True, derive=derive)
    if "candidates" in summary:
        show(candidates_table(summary))
    show(summary_table(summary))
    return summary


def produce(args: Arguments, folder: Path) -> dict:
    embeddings = load_embeddings(args.embedding_dir, poolings=CLUSTERABLE)
    start = time.monotonic()
    clustering = cluster(embeddings, args)
    logger.info(
        "%s clustering of %d embeddings by %s took %.1f s; peak memory of the process %.2f GiB",
        args.algorithm,
        len(embeddings.ids),
        clustering.summary["cluster_by"],
        time.monotonic() - start,
        peak_memory_gib(),
    )
    pyarrow.parquet.write_table(labels_table(embeddings, clustering), folder / "labels.parquet")
    write_json(folder / "summary.json", clustering.summary)
    if args.plot:
        plot(args, embeddings, clustering, folder / "clusters.png")
    return clustering.summary


def plot_again(args: Arguments, finished: Path, folder: Path) -> None:
    """Draw the clusters of a finished result, which are found again."""
    embeddings = load_embeddings(args.embedding_dir, poolings=CLUSTERABLE)
    plot(args, embeddings, cluster(embeddings, args), folder / "clusters.png")


def plot(args: Arguments, embeddings: Embeddings, clustering: Clustering, file: Path) -> None:
    train = embeddings.splits == FIT_SPLIT
    drawn = drawn_points(int(train.sum()))
    names = [clustering.summary["expert_names"][label] for label in clustering.labels[train]]
    plot_clusters(
        file,
        to_plane(clustering.points[train][drawn], args.plot_method, args.seed),
        drawn,
        names,
        embeddings.groups[train],
        f"{len(names)} training utterances, {describe_fit(clustering.summary)}",
        "principal component" if args.plot_method == "pca" else "UMAP",
    )


def describe_fit(summary: dict) -> str:
    """Name the algorithm, and what it found by itself."""
    by = " by speaker" if summary["cluster_by"] == "speaker" else ""
    words = f"{summary['algorithm']}{by}, {summary['num_experts']} experts"
    if summary["algorithm"] == "hdbscan":
        used = summary["parameters"]
        words += (
            f" of {used['clusters_found']} clusters, {used['noise']} utterances noise, min_cluster_size "
            f"{used['min_cluster_size']}, {len(used['attempts'])} attempts"
        )
    return words


def summary_table(summary: dict) -> Table:
    """A row per group, a column per expert, training utterances in the cells; the caption rates the clusters."""
    nmi = summary["agreement_nmi"]
    silhouette = "undefined" if summary["silhouette"] is None else f"{summary['silhouette']:.3f}"
    stability = "undefined" if summary["stability"] is None else in_figures(summary["stability"]["adjusted_rand"])
    table = Table(
        title=f"Training utterances per group and expert\n{describe_fit(summary)}",
        caption=(
            f"silhouette {silhouette}, stability {stability}\n"
            f"mean entropy of the labels {summary['mean_entropy']:.2f}\n"
            f"NMI with group {nmi['group']:.2f}, speaker {nmi['speaker']:.2f}, duration {nmi['duration_quartile']:.2f}"
        ),
    )
    table.add_column("group")
    for name in summary["expert_names"]:
        table.add_column(name, justify="right")
    for group, counts in summary["contingency"].items():
        table.add_row(group, *map(str, counts))
    table.add_section()
    table.add_row("all", *map(str, summary["sizes"]))
    table.add_row("speakers", *map(str, summary["speakers_per_cluster"]))
    for split, row in summary["splits"].items():
        if split != FIT_SPLIT:
            table.add_row(f"all of {split}", *map(str, row["per_expert"]))
    return table


def candidates_table(summary: dict) -> Table:
    """A row per clustering that --algorithm auto tried."""
    table = Table("clustering", title="Clusterings that were tried; the most stable is taken")
    for column in ("stability", "NMI group", "speaker", "duration"):
        table.add_column(column, justify="right")
    table.add_column("utterances (speakers)")
    table.add_column("refused for")
    for row in summary["candidates"]:
        name = f"{row['algorithm']} by {row['cluster_by']}"
        if "sizes" not in row:
            table.add_row(name, *[""] * 5, "no clusters")  # the message is in summary.json
            continue
        counts = zip(row["sizes"], row["speakers_per_cluster"], strict=True)
        table.add_row(
            name,
            in_figures(row["stability"]),
            *map(in_figures, row["agreement_nmi"].values()),
            ", ".join(f"{size} ({speakers})" for size, speakers in counts),
            row["refused"] or "",
        )
    return table


def in_figures(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    run_recipe(main)
