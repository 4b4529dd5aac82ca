"""Pre-train the router of a MoE-Whisper on embeddings and soft cluster labels.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/pretrain_router.py --config recipes/configs/pretrain_router/default.yaml \\
    --embedding_dir runs/moe/embeddings --labels_dir runs/moe/clusters --output_dir runs/moe/router
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate import PartialState

from hf_components.arguments import parse_arguments
from hf_components.clustering import FIT_SPLIT, load_embeddings
from hf_components.embedding import FULL_CONTEXT
from hf_components.labels import load_labels
from hf_components.logs import run_recipe
from hf_components.plots import plot_curves
from hf_components.stages import run_stage, write_json
from hf_components.training.router import RouterArguments, judge_router, train_router


@dataclass
class Arguments:
    embedding_dir: str = field(metadata={"help": "output of extract_embeddings on the base model that will be routed"})
    labels_dir: str = field(metadata={"help": "output of cluster_embeddings"})
    output_dir: str = field(metadata={"help": "folder of the router"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


ARGUMENTS = (Arguments, RouterArguments)


def main(argv: list[str] | None = None) -> dict:
    args, router_args = parse_arguments(ARGUMENTS, argv, __doc__)
    return run_stage(args.output_dir, lambda folder: produce(args, router_args, folder), config=(args, router_args),
                     inputs=[args.embedding_dir, args.labels_dir], resume=args.resume)


def produce(args: Arguments, router_args: RouterArguments, folder: Path) -> dict:
    labels = load_labels(args.labels_dir)
    alone, full = load_embeddings(args.embedding_dir), load_embeddings(Path(args.embedding_dir) / FULL_CONTEXT)
    views = [(view, labels.weights_of(view.ids)) for view in (alone, full)]
    vectors, weights = (np.concatenate(parts) for parts in zip(
        *((view.vectors[view.splits == FIT_SPLIT], soft[view.splits == FIT_SPLIT]) for view, soft in views), strict=True))
    router, history = train_router(vectors, weights, router_args)
    metrics = {}
    for context, (view, soft) in zip(("dynamic", "full"), views, strict=True):
        for split in np.unique(view.splits).tolist():
            chosen = view.splits == split
            metrics[f"{split}_{context}_context"] = judge_router(router, view.vectors[chosen], soft[chosen])
    metrics["kl_per_epoch"] = history
    if PartialState().is_main_process:
        router.save(folder, router_layer=alone.source["layer"])
        write_json(folder / "metrics.json", metrics)
        plot_curves(folder / "router.png", {"KL to the soft labels": history}, "epoch", "nats",
                    "Router pre-training on the split train")
    return metrics


if __name__ == "__main__":
    run_recipe(main)
