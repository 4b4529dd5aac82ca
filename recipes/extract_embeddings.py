"""Embed every utterance of a corpus as the router of a MoE-Whisper will see it.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/extract_embeddings.py --config recipes/configs/extract_embeddings/default.yaml \\
    --corpus data/prepared --output_dir runs/moe/embeddings
"""

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from hf_components.checkpoints import load_whisper
from hf_components.moe import FULL_CONTEXT, TIME_BINS, WHISPER_MODELS, Pooling, join_shards, plan_shards, write_shards
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage, write_json
from hf_components.speech import LONG, load_corpus, sample_rows

logger = logging.getLogger(__name__)


@dataclass
class Arguments:
    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder of embeddings.parquet and embeddings.json"})
    whisper_model: str = field(
        default="models/whisper-tiny.en",
        metadata={"help": "Whisper checkpoint: folder, Hub id, or v2 or v3 for openai/whisper-large-v2 or -v3"},
    )
    layer: int | None = field(default=None, metadata={"help": "encoder layer to read; half of them by default"})
    pooling: Pooling = field(
        default="mean",
        metadata={
            "help": "mean over time, which a router is trained on; "
            f"flatten: means over {TIME_BINS} stretches of time, one after the other, for clustering alone; "
            "none: all frames (200 bytes x d_model per second), for your own use"
        },
    )
    batch_size: int = field(default=16, metadata={"help": "utterances per batch and process"})
    full_context_samples: int = field(
        default=2000,
        metadata={
            "help": "with pooling mean: utterances per split that are embedded at 30 s too, for a router "
            "that knows both "
            "contexts; 0 where no router is trained on them"
        },
    )
    data_config_override: str | None = field(
        default=None,
        metadata={
            "help": "how much of every split to take: JSON with sampling, percent, max_samples, seed, as "
            'in {"percent": 50}'
        },
    )
    num_workers: int = field(
        default=0, metadata={"help": "processes that decode audio ahead of the model, per process"}
    )
    seed: int = field(default=42, metadata={"help": "seed of the sample at 30 s"})
    resume: bool = field(default=False, metadata={"help": "keep a finished result, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    args.whisper_model = WHISPER_MODELS.get(args.whisper_model, args.whisper_model)
    metrics = run_stage(
        args.output_dir,
        lambda folder: produce(args, folder),
        config=args,
        inputs=[args.corpus, args.whisper_model],
        resume=args.resume,
    )
    if PartialState().is_main_process:
        print(
            f"{metrics['utterances']} utterances embedded by {args.whisper_model} after layer "
            f"{metrics['layer']}, pooling "
            f"{args.pooling}: {Path(args.output_dir) / 'embeddings.parquet'}"
        )
    return metrics


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, data_config_override=args.data_config_override)
    model, processor = load_whisper(args.whisper_model, "en")  # nothing is decoded
    layers = model.config.encoder_layers
    layer = max(1, layers // 2) if args.layer is None else args.layer
    if not 1 <= layer <= layers:
        raise UserError(f"--layer must lie in [1, {layers}] for {args.whisper_model}, got {layer}")
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning("%d recordings of %s are longer than 30 s and take no part", len(corpus[name]), name)
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    shards = {"dynamic": plan_shards("dynamic", splits, args.batch_size)}
    if args.pooling == "mean" and args.full_context_samples:
        # The router meets both contexts: clips alone in training, 30 s in stock pipelines.
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
                    {"model": args.whisper_model, "layer": layer, "pooling": args.pooling, "audio_context": context},
                )
        shutil.rmtree(parts)
    return {"utterances": sum(map(len, splits.values())), "d_model": model.config.d_model, "layer": layer}


if __name__ == "__main__":
    run_recipe(main)
