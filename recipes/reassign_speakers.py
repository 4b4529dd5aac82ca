"""Move every speaker to the expert that has the lowest loss on them, and write labels to train router and experts on.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/reassign_speakers.py --config recipes/configs/reassign_speakers/default.yaml --corpus data/prepared \\
    --experts_dir runs/moe/experts --labels_dir runs/moe/clusters --output_dir runs/moe/reassigned

Writes labels.parquet and summary.json, in the form of cluster_embeddings.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
from accelerate import PartialState
from rich.table import Table

from hf_components.checkpoints import load_whisper
from hf_components.moe import (
    ExpertLosses,
    join_shards,
    load_labels,
    load_trained_experts,
    plan_shards,
    require_transcripts,
    write_vectors,
)
from hf_components.moe.clustering import labels_table, load_embeddings, reassign
from hf_components.reporting import show
from hf_components.runtime import (
    SCRATCH,
    RecipeArguments,
    UserError,
    flag,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import LONG, language_code, leave_out_unreadable, load_corpus, unreadable_flag

LOSSES = "losses"  # folder of the losses of every utterance, and what they are called in its embeddings.json


@dataclass
class Arguments(RecipeArguments):
    corpus: str = flag("prepared corpus: folder or Hub id")
    experts_dir: str = flag("output of pretrain_experts with --labels_dir")
    labels_dir: str = flag("labels that the experts were trained on: output of cluster_embeddings")
    model: str = flag("Whisper checkpoint of the experts: folder or Hub id", default="models/whisper-tiny.en")
    language: str = flag("language code, for multilingual checkpoints", default="en", read=language_code)
    target_entropy: float = flag("entropy of the soft labels: 0 one-hot, 1 uniform", default=0.3, above=0, below=1)
    batch_size: int = flag("utterances per batch and process", default=16, min=1)
    data_config_override: str | None = flag(
        'part of the splits to use: JSON with sampling, percent, max_samples, seed, such as {"percent": 50}',
        default=None,
    )
    unreadable_rows: str = unreadable_flag()
    num_workers: int = flag("helper processes that decode audio, per process", default=0, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [args.corpus, args.model, args.experts_dir, args.labels_dir]
    summary = run_as_stage(produce, args, inputs=inputs)
    show(moves_table(summary))
    return summary


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, data_config_override=args.data_config_override)
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    require_transcripts(splits, args.corpus)
    labels = load_labels(args.labels_dir)
    before = read_record(
        Path(args.labels_dir) / "summary.json",
        {"algorithm": str, "expert_names": [str]},
        "cluster the embeddings again",
    )
    base, processor = load_whisper(args.model, args.language)
    model = load_trained_experts(base, args.experts_dir)
    if model.config.num_experts != labels.num_experts:
        raise UserError(
            f"{args.experts_dir} holds {model.config.num_experts} experts, but the labels in {args.labels_dir} are of "
            f"{labels.num_experts}; give the labels that these experts were trained on"
        )
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, args.num_workers)

    shards = plan_shards("dynamic", splits, args.batch_size)
    write_vectors(
        ExpertLosses(model, processor),
        processor.feature_extractor,
        shards,
        folder / SCRATCH,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        doing="losses of all experts",
    )
    summary = {}
    if PartialState().is_main_process:
        (folder / LOSSES).mkdir(exist_ok=True)
        join_shards(shards, folder / SCRATCH, folder / LOSSES / "embeddings.parquet")
        write_json(folder / LOSSES / "embeddings.json", {"experts": args.experts_dir, "pooling": LOSSES})
        losses = load_embeddings(folder / LOSSES, poolings=(LOSSES,))
        clustering = reassign(losses, labels.weights_of(losses.ids).argmax(1), args.target_entropy)
        pyarrow.parquet.write_table(labels_table(losses, clustering), folder / "labels.parquet")
        kept = {name: before[name] for name in ("algorithm", "expert_names")}
        summary = {**kept, "cluster_by": "speaker", **clustering.summary}
        write_json(folder / "summary.json", summary)
    return summary


def moves_table(summary: dict) -> Table:
    """A row per expert before, a column per expert after, speakers in the cells; the caption rates the move."""
    moves = summary["reassigned"]
    table = Table(
        title="Speakers by expert, before (rows) and after (columns)",
        caption=(
            f"{moves['moved']} of {moves['speakers']} speakers moved\n"
            f"adjusted Rand index to before {moves['adjusted_rand']:.2f}\n"
            f"NMI with group {summary['agreement_nmi']['group']:.2f}\n"
            f"loss per token {moves['loss_before']:.3f} before, {moves['loss_after']:.3f} after"
        ),
        min_width=60,
    )
    table.add_column("from")
    for name in summary["expert_names"]:
        table.add_column(name, justify="right")
    for name, row in zip(summary["expert_names"], moves["from_to"], strict=True):
        table.add_row(name, *map(str, row))
    return table


if __name__ == "__main__":
    run_recipe(main)
