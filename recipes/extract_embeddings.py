"""Embed every utterance of a corpus as the router of a MoE-Whisper will see it.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/extract_embeddings.py --config recipes/configs/extract_embeddings/default.yaml \\
    --corpus data/prepared --output_dir runs/moe/embeddings

Writes embeddings.parquet and embeddings.json to --output_dir.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from hf_components.checkpoints import load_whisper
from hf_components.moe import FULL_CONTEXT, TIME_BINS, WHISPER_MODELS, Pooling, join_shards, plan_shards, write_shards
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import LONG, leave_out_unreadable, load_corpus, sample_rows, unreadable_flag

logger = logging.getLogger(__name__)


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("prepared corpus: folder or Hub id")
    model: str = flag(
        "Whisper checkpoint: folder or Hub id; v2 and v3 mean openai/whisper-large-v2 and -v3",
        default="models/whisper-tiny.en",
        aliases=["--whisper_model"],
    )
    layer: int | None = flag("encoder layer to read; default: the middle one", default=None, min=1)
    pooling: Pooling = flag(
        f"mean over time: a router needs it; flatten: means over {TIME_BINS} stretches of time, for clustering only; "
        "none: all frames (200 bytes x d_model per second)",
        default="mean",
    )
    batch_size: int = flag("utterances per batch and process", default=16, min=1)
    full_context_samples: int = flag(
        "with pooling mean: utterances per split to embed at 30 s too, for routers; 0: none",
        default=2000,
        min=0,
        needs={"pooling": "mean"},
    )
    data_config_override: str | None = flag(
        'share of every split, as JSON of sampling, percent, max_samples, seed: {"percent": 50}', default=None
    )
    unreadable_rows: str = unreadable_flag()
    num_workers: int = flag("helper processes that decode audio, per process", default=0, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    args.model = WHISPER_MODELS.get(args.model, args.model)
    metrics = run_as_stage(produce, args, inputs=[args.corpus, args.model])
    show(
        f"{metrics['utterances']} utterances embedded by {args.model} after layer {metrics['layer']}, pooling "
        f"{args.pooling}: {Path(args.output_dir) / 'embeddings.parquet'}"
    )
    return metrics


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, data_config_override=args.data_config_override)
    model, processor = load_whisper(args.model, "en")  # nothing is decoded
    layers = model.config.encoder_layers
    layer = max(1, layers // 2) if args.layer is None else args.layer
    if not 1 <= layer <= layers:
        raise UserError(f"--layer must lie in [1, {layers}] for {args.model}, got {layer}")
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning("%d recordings of %s are longer than 30 s and take no part", len(corpus[name]), name)
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, args.num_workers)
    shards = {"dynamic": plan_shards("dynamic", splits, args.batch_size)}
    if args.pooling == "mean" and args.full_context_samples:
        # The router sees both contexts: clips without padding in training, 30 s in stock pipelines.
        samples = {name: sample_rows(rows, args.full_context_samples, args.seed) for name, rows in splits.items()}
        shards["full"] = plan_shards("full", samples, args.batch_size)

    parts = folder / "shards"
    write_shards(
        model,
        processor,
        [shard for context in shards.values() for shard in context],
        parts,
        layer=layer,
        pooling=args.pooling,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    if PartialState().is_main_process:
        for context, target in (("dynamic", folder), ("full", folder / FULL_CONTEXT)):
            if context in shards:
                target.mkdir(exist_ok=True)
                join_shards(shards[context], parts, target / "embeddings.parquet")
                write_json(
                    target / "embeddings.json",
                    {"model": args.model, "layer": layer, "pooling": args.pooling, "audio_context": context},
                )
        shutil.rmtree(parts)
    return {"utterances": sum(map(len, splits.values())), "d_model": model.config.d_model, "layer": layer}


if __name__ == "__main__":
    run_recipe(main)
