"""Embed every utterance of a corpus as the router of a MoE-Whisper will see it.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/extract_embeddings.py --config recipes/configs/extract_embeddings/default.yaml \\
    --corpus data/prepared --output_dir runs/moe/embeddings

Writes embeddings.parquet and embeddings.json to --output_dir.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState
from transformers import WhisperProcessor

from hf_components.checkpoints import load_whisper
from hf_components.moe import (
    FULL_CONTEXT,
    TIME_BINS,
    WHISPER_MODELS,
    LoraGradients,
    join_shards,
    plan_shards,
    require_transcripts,
    write_shards,
    write_vectors,
)
from hf_components.reporting import show
from hf_components.runtime import (
    SCRATCH,
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import LONG, language_code, leave_out_unreadable, load_corpus, sample_rows, unreadable_flag
from hf_components.whisper import DynamicContextWhisper

logger = logging.getLogger(__name__)


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("prepared corpus: folder or Hub id")
    model: str = flag(
        "Whisper checkpoint: folder or Hub id; v2 and v3 mean openai/whisper-large-v2 and -v3",
        default="models/whisper-tiny.en",
        aliases=["--whisper_model"],
    )
    layer: int | None = flag(
        "encoder layer to read; default: the middle one",
        default=None,
        min=1,
        needs={"pooling": ("mean", "flatten", "none")},
    )
    pooling: Literal["mean", "flatten", "none", "gradient"] = flag(
        f"mean over time: a router needs it; flatten: means over {TIME_BINS} stretches of time, for clustering only; "
        "none: all frames (200 bytes x d_model per second); gradient: how the transcript would change --lora_model, "
        "for clustering only",
        default="mean",
    )
    lora_model: str | None = flag(
        "LoRA of the gradients: output of pretrain_experts without labels, or PEFT adapter",
        default=None,
        needs={"pooling": "gradient"},
    )
    gradient_dim: int = flag(
        "dimensions that gradients are projected to", default=512, min=2, needs={"pooling": "gradient"}
    )
    language: str = flag(
        "language code, for gradients of multilingual checkpoints",
        default="en",
        read=language_code,
        needs={"pooling": "gradient"},
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

    def __post_init__(self):
        if self.pooling == "gradient" and not self.lora_model:
            raise UserError(
                "--pooling gradient needs --lora_model, the LoRA whose gradients are taken; pretrain_experts without "
                "--labels_dir trains one"
            )


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    args.model = WHISPER_MODELS.get(args.model, args.model)
    metrics = run_as_stage(produce, args, inputs=[args.corpus, args.model, args.lora_model])
    of = f"after layer {metrics['layer']}" if args.pooling != "gradient" else f"with the LoRA in {args.lora_model}"
    show(
        f"{metrics['utterances']} utterances embedded by {args.model} {of}, pooling {args.pooling}: "
        f"{Path(args.output_dir) / 'embeddings.parquet'}"
    )
    return metrics


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, data_config_override=args.data_config_override)
    model, processor = load_whisper(args.model, args.language)
    gradients = take_gradients(args, model, processor) if args.pooling == "gradient" else None
    layer = None if gradients else choose_layer(args, model.config.encoder_layers)
    splits = splits_to_embed(args, corpus, folder)
    shards = {"dynamic": plan_shards("dynamic", splits, args.batch_size)}
    if args.pooling == "mean" and args.full_context_samples:
        # The router sees both contexts: clips without padding in training, 30 s in stock pipelines.
        samples = {name: sample_rows(rows, args.full_context_samples, args.seed) for name, rows in splits.items()}
        shards["full"] = plan_shards("full", samples, args.batch_size)

    parts = folder / SCRATCH
    every = [shard for context in shards.values() for shard in context]
    loading = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    if gradients:
        write_vectors(gradients, processor.feature_extractor, every, parts, **loading)
    else:
        write_shards(model, processor, every, parts, layer=layer, pooling=args.pooling, **loading)
    if PartialState().is_main_process:
        for context, of_context in shards.items():
            target = folder / FULL_CONTEXT if context == "full" else folder
            target.mkdir(exist_ok=True)
            join_shards(of_context, parts, target / "embeddings.parquet")
            write_json(
                target / "embeddings.json",
                {"model": args.model, "layer": layer, "pooling": args.pooling, "audio_context": context},
            )
    return {"utterances": sum(map(len, splits.values())), "d_model": model.config.d_model, "layer": layer}


def splits_to_embed(args: Arguments, corpus: datasets.DatasetDict, folder: Path) -> dict[str, datasets.Dataset]:
    """The splits of the corpus without recordings that are too long, or cannot be read."""
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning("%d recordings of %s are longer than 30 s and take no part", len(corpus[name]), name)
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    if args.pooling == "gradient":
        require_transcripts(splits, args.corpus)
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, args.num_workers)
    return splits


def take_gradients(args: Arguments, model: DynamicContextWhisper, processor: WhisperProcessor) -> LoraGradients:
    return LoraGradients(
        model, processor, args.lora_model, batch_size=args.batch_size, dimension=args.gradient_dim, seed=args.seed
    )


def choose_layer(args: Arguments, layers: int) -> int:
    layer = max(1, layers // 2) if args.layer is None else args.layer
    if not 1 <= layer <= layers:
        raise UserError(f"--layer must lie in [1, {layers}] for {args.model}, got {layer}")
    return layer


if __name__ == "__main__":
    run_recipe(main)
