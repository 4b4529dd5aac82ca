"""Turn a source corpus into Parquet with the audio inside, a data card and the list of rejected rows.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/prepare_corpus.py --config recipes/configs/prepare_corpus/default.yaml \\
    --builder speaker_json --data_dir data/speakers --output_dir data/prepared
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from dataset_scripts import SpeakerJson
from dataset_scripts.prepared import summarise, write_card, write_parquet
from hf_components.arguments import parse_arguments
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.stages import run_stage

BUILDERS = {"speaker_json": SpeakerJson}
BUILDER_OPTIONS = ("sampling", "percent", "max_samples", "seed", "disfluencies", "min_duration", "max_duration")


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "folder of the source corpus"})
    output_dir: str = field(metadata={"help": "folder of the prepared corpus"})
    builder: str = field(default="speaker_json", metadata={"help": f"source layout: {', '.join(BUILDERS)}"})
    sampling: str = field(default="random", metadata={"help": "random, or stratified: keep the share of every group"})
    percent: float = field(default=100.0, metadata={"help": "share of each split to take, in (0, 100]"})
    max_samples: int | None = field(default=None, metadata={"help": "most utterances per split; all by default"})
    seed: int = field(default=42, metadata={"help": "seed of the sampling"})
    disfluencies: str = field(default="keep", metadata={"help": "keep or drop words in (parentheses)"})
    min_duration: float = field(default=0.0, metadata={"help": "seconds; shorter recordings are rejected"})
    max_duration: float = field(default=30.0, metadata={"help": "seconds; longer recordings go whole to <split>_long"})
    name: str | None = field(default=None, metadata={"help": "name on the data card; the source folder's by default"})
    license: str | None = field(default=None, metadata={"help": "licence for the data card, such as cc-by-4.0"})
    language: str | None = field(default=None, metadata={"help": "language for the data card, such as en"})
    shard_megabytes: int = field(default=500, metadata={"help": "a Parquet file is closed once it has this size"})
    num_proc: int | None = field(default=None, metadata={"help": "worker processes; one per core by default"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if args.builder not in BUILDERS:
        raise UserError(f"builder must be one of {', '.join(BUILDERS)}, got {args.builder!r}")
    for name in ("num_proc", "shard_megabytes"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    metrics = run_stage(args.output_dir, lambda folder: prepare(args, folder), config=args,
                        inputs=sorted(Path(args.data_dir).glob("*")), resume=args.resume, alone=True)
    print(format_summary(metrics))
    return metrics


def prepare(args: Arguments, folder: Path) -> dict:
    options = {name: getattr(args, name) for name in BUILDER_OPTIONS}
    rows, rejected = write_parquet(BUILDERS[args.builder], folder, num_proc=args.num_proc or os.cpu_count(),
                                   shard_megabytes=args.shard_megabytes, data_dir=args.data_dir, **options)
    table = summarise(folder, list(rows))
    write_card(folder, table, rejected, name=args.name or Path(args.data_dir).resolve().name, source=args.builder,
               options=options, license=args.license, language=args.language)
    return {"rows": rows, "rejected": rejected, "groups": table}


def format_summary(metrics: dict) -> str:
    lines = [f"{'split':12}{'group':24}{'utterances':>12}{'speakers':>10}{'hours':>9}"]
    lines += [f"{row['split']:12}{row['group']:24}{row['utterances']:12}{row['speakers']:10}{row['hours']:9.2f}"
              for row in metrics["groups"]]
    rejected = ", ".join(f"{count} {reason}" for reason, count in metrics["rejected"].items())
    return "\n".join([*lines, f"rejected: {rejected or 'none'}"])


if __name__ == "__main__":
    run_recipe(main)
