"""Embed every utterance of a corpus as the router of a MoE-Whisper will see it.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/extract_embeddings.py --config recipes/configs/extract_embeddings/default.yaml \\
    --corpus data/prepared --output_dir runs/moe/embeddings
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow
import pyarrow.parquet
from accelerate import PartialState

from hf_components.arguments import parse_arguments
from hf_components.checkpoints import load_whisper
from hf_components.corpus import LONG, load_corpus, sample_rows
from hf_components.embedding import FULL_CONTEXT, embed_corpus
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.stages import run_stage, write_json

logger = logging.getLogger(__name__)

COLUMNS = ["id", "speaker_id", "group", "duration"]


@dataclass
class Arguments:
    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder of embeddings.parquet and embeddings.json"})
    whisper_model: str = field(default="models/whisper-tiny.en", metadata={"help": "Whisper checkpoint: folder or Hub id"})
    layer: int | None = field(default=None, metadata={"help": "encoder layer to read; half of them by default"})
    batch_size: int = field(default=16, metadata={"help": "utterances per batch and process"})
    full_context_samples: int = field(default=2000, metadata={
        "help": "utterances per split that are embedded at 30 s too, for a router that knows both contexts"})
    seed: int = field(default=42, metadata={"help": "seed of that sample"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    return run_stage(args.output_dir, lambda folder: produce(args, folder), config=args,
                     inputs=[args.corpus, args.whisper_model], resume=args.resume)


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus)
    model, processor = load_whisper(args.whisper_model)
    layers = model.config.encoder_layers
    layer = max(1, layers // 2) if args.layer is None else args.layer
    if not 1 <= layer <= layers:
        raise UserError(f"--layer must lie in [1, {layers}] for {args.whisper_model}, got {layer}")
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning("%d recordings of %s are longer than 30 s and take no part", len(corpus[name]), name)
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    # The router meets both contexts: clips alone in training, 30 s in stock pipelines.
    samples = {name: sample_rows(rows, args.full_context_samples, args.seed) for name, rows in splits.items()}
    for context, chosen, target in (("dynamic", splits, folder), ("full", samples, folder / FULL_CONTEXT)):
        tables = []
        for split, rows in chosen.items():
            embeddings = embed_corpus(model, processor, rows, layer=layer, full_context=context == "full",
                                      batch_size=args.batch_size, description=f"{split}, {context} context")
            columns = {name: rows[name][:] for name in COLUMNS}
            tables.append(pyarrow.table({**columns, "split": [split] * len(rows), "embedding": pyarrow.array(
                list(embeddings), pyarrow.list_(pyarrow.float32()))}))
        if PartialState().is_main_process:
            target.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.concat_tables(tables), target / "embeddings.parquet")
            write_json(target / "embeddings.json", {"model": args.whisper_model, "layer": layer, "pooling": "mean",
                                                    "audio_context": context})
    return {"utterances": sum(map(len, splits.values())), "d_model": model.config.d_model, "layer": layer}


if __name__ == "__main__":
    run_recipe(main)
