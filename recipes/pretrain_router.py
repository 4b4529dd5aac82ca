"""Pre-train the router of a MoE-Whisper on embeddings and soft cluster labels.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/pretrain_router.py --config recipes/configs/pretrain_router/default.yaml \\
    --embedding_dir runs/moe/embeddings --labels_dir runs/moe/clusters --output_dir runs/moe/router

Writes the router to --output_dir; later steps take it as --router_dir.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from hf_components.moe import (
    FULL_CONTEXT,
    RouterArguments,
    best_epoch,
    choose_held_out,
    evaluate_router,
    load_labels,
    train_router,
)
from hf_components.moe.clustering import FIT_SPLIT, load_embeddings
from hf_components.reporting import plot_curves, plot_reliability, show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    flag,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    write_json,
)

HELD_OUT = f"{FIT_SPLIT}_held_out"  # speakers for early stopping
HISTORY = "history.json"
METRICS = "metrics.json"
LOST = "the plots need it; leave out --plot"


@dataclass
class Arguments(RecipeArguments, PlotArguments):
    embedding_dir: str = flag("output of extract_embeddings on the base model that will be routed")
    labels_dir: str = flag("output of cluster_embeddings")


ARGUMENTS = (Arguments, RouterArguments)


def main(argv: list[str] | None = None) -> dict:
    args, router_args = parse_arguments(ARGUMENTS, argv, __doc__)
    metrics = run_as_stage(
        produce, args, router_args, inputs=[args.embedding_dir, args.labels_dir], alone=True, derive={"plot": plot}
    )
    show(summary_table(metrics))
    return metrics


def produce(args: Arguments, router_args: RouterArguments, folder: Path) -> dict:
    labels = load_labels(args.labels_dir)
    contexts = {
        "dynamic": load_embeddings(args.embedding_dir),
        "full": load_embeddings(Path(args.embedding_dir) / FULL_CONTEXT),
    }
    vectors = np.concatenate([view.vectors for view in contexts.values()])
    weights = np.concatenate([labels.weights_of(view.ids) for view in contexts.values()])
    speakers = np.concatenate([view.speakers for view in contexts.values()])
    parts = np.concatenate([view.splits for view in contexts.values()]).astype(object)
    names = np.repeat(list(contexts), [len(view.ids) for view in contexts.values()])

    train = parts == FIT_SPLIT
    held_out = choose_held_out(speakers[train], weights[train].argmax(-1), router_args)
    router, history = train_router(vectors[train], weights[train], router_args, held_out, folder / "checkpoints")
    parts[train] = np.where(held_out, HELD_OUT, FIT_SPLIT)

    scored = {
        f"{part}_{context}_context": evaluate_router(router, vectors[chosen], weights[chosen])
        for context in contexts
        for part in sorted(set(parts))
        if (chosen := (names == context) & (parts == part)).any()
    }
    router.save(folder, router_layer=contexts["dynamic"].source["layer"])
    write_json(folder / HISTORY, history)
    write_json(folder / METRICS, scored)
    if args.plot:
        plot(folder, folder)
    return {
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        "held_out_speakers": sorted(set(speakers[train][held_out])),
        **scored,
    }


def plot(trained: Path, folder: Path) -> None:
    history = read_record(trained / HISTORY, [dict], LOST)
    scored = read_record(trained / METRICS, {str: dict}, LOST)
    curves = {
        key.replace("_kl", ""): [entry[key] for entry in history]
        for key in ("train_kl", "validation_kl")
        if key in history[0]
    }
    plot_curves(
        folder / "router.png",
        curves,
        "epoch",
        "KL to the soft labels (nats)",
        f"Router pre-training, best epoch {best_epoch(history)} of {len(history)}",
    )
    plot_reliability(
        folder / "reliability.png",
        {name.replace("_", " "): row["reliability"] for name, row in scored.items()},
        "How sure the router is, and how often it is right",
    )


def summary_table(metrics: dict) -> Table:
    table = Table(
        title="Router against the cluster labels",
        caption=(
            f"weights of epoch {metrics['best_epoch']} of {metrics['epochs']}; ECE: expected calibration error;\n"
            "confidence: mean greatest gate (mean greatest soft label)"
        ),
    )
    table.add_column("part, context", no_wrap=True)
    for heading in ("utterances", "accuracy", "KL", "ECE", "confidence"):
        table.add_column(heading, justify="right")
    for name, row in metrics.items():
        if name.endswith("_context"):
            table.add_row(
                name.removesuffix("_context").replace("_", " "),
                str(row["utterances"]),
                f"{100 * row['accuracy']:.1f} %",
                f"{row['kl']:.3f}",
                f"{row['ece']:.3f}",
                f"{row['confidence']:.2f} ({row['label_confidence']:.2f})",
            )
    return table


if __name__ == "__main__":
    run_recipe(main)
