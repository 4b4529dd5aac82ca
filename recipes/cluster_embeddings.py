"""Cluster utterance embeddings into experts, with soft labels of a calibrated entropy.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/cluster_embeddings.py --config recipes/configs/cluster_embeddings/default.yaml \\
    --embedding_dir runs/moe/embeddings --output_dir runs/moe/clusters
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow.parquet
from accelerate import PartialState
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from hf_components.arguments import parse_arguments
from hf_components.clustering import FIT_SPLIT, Clustering, Embeddings, cluster, labels_table, load_embeddings
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.plots import plot_clusters
from hf_components.stages import run_stage, write_json


@dataclass
class Arguments:
    embedding_dir: str = field(metadata={"help": "output folder of extract_embeddings"})
    output_dir: str = field(metadata={"help": "folder of labels.parquet, summary.json and clusters.png"})
    algorithm: Literal["spectral", "group"] = field(
        default="spectral", metadata={"help": "spectral: clusters of similar embeddings; group: one expert per known group"})
    num_experts: int = field(default=4, metadata={"help": "number of clusters; with group, the number of groups counts"})
    reduce: Literal["pca", "none"] = field(default="pca", metadata={"help": "reduction after standardising"})
    reduce_dim: int = field(default=50, metadata={"help": "principal components to keep"})
    target_entropy: float = field(default=0.3, metadata={
        "help": "mean entropy of the soft labels, between 0 (one-hot) and 1 (uniform); sets their temperature"})
    seed: int = field(default=42, metadata={"help": "seed of reduction and clustering"})
    plot: bool = field(default=True, metadata={"help": "draw clusters.png"})
    plot_method: Literal["pca", "tsne"] = field(default="pca", metadata={"help": "how the plot gets two dimensions"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    summary = run_stage(args.output_dir, lambda folder: produce(args, folder), config=args, inputs=[args.embedding_dir],
                        resume=args.resume)
    if PartialState().is_main_process:
        Console().print(summary_table(summary))
    return summary


def produce(args: Arguments, folder: Path) -> dict:
    embeddings = load_embeddings(args.embedding_dir)
    clustering = cluster(embeddings, args.algorithm, args.num_experts, args.reduce, args.reduce_dim, args.target_entropy,
                         args.seed)
    if PartialState().is_main_process:
        pyarrow.parquet.write_table(labels_table(embeddings, clustering), folder / "labels.parquet")
        write_json(folder / "summary.json", clustering.summary)
        if args.plot:
            plot(args, embeddings, clustering, folder / "clusters.png")
    return clustering.summary


def plot(args: Arguments, embeddings: Embeddings, clustering: Clustering, file: Path) -> None:
    train = embeddings.splits == FIT_SPLIT
    points = clustering.points[train]
    if args.plot_method == "tsne" and len(points) < 5:
        raise UserError(f"--plot_method tsne needs at least 5 utterances, got {len(points)}; use pca or --no_plot")
    flat = (PCA(2, random_state=args.seed) if args.plot_method == "pca" else
            TSNE(2, perplexity=min(30, (len(points) - 1) / 3), random_state=args.seed)).fit_transform(points)
    names = [clustering.summary["expert_names"][label] for label in clustering.labels[train]]
    title = f"{len(points)} training utterances, {args.algorithm}, {clustering.summary['num_experts']} experts"
    plot_clusters(file, flat, names, embeddings.groups[train], title,
                  "principal component" if args.plot_method == "pca" else "t-SNE")


def summary_table(summary: dict) -> Table:
    """Rows are groups, columns experts, cells training utterances; the caption says how good the clusters are."""
    nmi = summary["agreement_nmi"]
    silhouette = "undefined" if summary["silhouette"] is None else f"{summary['silhouette']:.3f}"
    table = Table(title=f"Training utterances per group and expert ({summary['algorithm']})", caption=(
        f"silhouette {silhouette}, mean entropy of the labels {summary['mean_entropy']:.2f}\n"
        f"NMI with group {nmi['group']:.2f}, speaker {nmi['speaker']:.2f}, duration {nmi['duration_quartile']:.2f}"))
    table.add_column("group")
    for name in summary["expert_names"]:
        table.add_column(name, justify="right")
    for group, counts in summary["contingency"].items():
        table.add_row(group, *map(str, counts))
    table.add_section()
    table.add_row("all", *map(str, summary["sizes"]))
    for split, row in summary["splits"].items():
        if split != FIT_SPLIT:
            table.add_row(f"all of {split}", *map(str, row["per_expert"]))
    return table


if __name__ == "__main__":
    run_recipe(main)
