"""Turn a source corpus into Parquet with the audio inside, a data card and the list of rejected rows.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/prepare_corpus.py --config recipes/configs/prepare_corpus/default.yaml \\
    --builder speaker_json --data_dir data/speakers --output_dir data/prepared

For a corpus with JSONL manifests:

    --builder jsonl_manifest --manifest data/train.jsonl --audio_dirs data/audio_0 data/audio_1 --output_dir
    data/prepared

For long recordings, which are cut at their pauses (see also recipes/segment_audio.py):

    --builder segmented_audio --data_dir data/recordings --output_dir data/prepared
"""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import BuilderConfig

from dataset_scripts import JsonlManifest, SegmentedAudio, SpeakerJson
from dataset_scripts.corpus_builder import CorpusBuilder
from dataset_scripts.prepared import write_corpus
from hf_components.publishing import PublishArguments, push
from hf_components.runtime import UserError, parse_arguments, parse_pairs, run_recipe, run_stage
from hf_components.speech import Segmentation

BUILDERS = {"speaker_json": SpeakerJson, "jsonl_manifest": JsonlManifest, "segmented_audio": SegmentedAudio}


@dataclass
class Arguments(Segmentation):
    output_dir: str = field(metadata={"help": "folder of the prepared corpus"})
    data_dir: str | None = field(
        default=None, metadata={"help": "folder of the source corpus; by default the manifest's"}
    )
    builder: str = field(default="speaker_json", metadata={"help": f"source layout: {', '.join(BUILDERS)}"})
    sampling: str = field(default="random", metadata={"help": "random, or stratified: keep the share of every group"})
    percent: float = field(default=100.0, metadata={"help": "share of each split to take, in (0, 100]"})
    max_samples: int | None = field(default=None, metadata={"help": "most utterances per split; all by default"})
    seed: int = field(default=42, metadata={"help": "seed of the sampling"})
    disfluencies: str = field(default="keep", metadata={"help": "speaker_json: keep or drop words in (parentheses)"})
    min_duration: float = field(default=0.0, metadata={"help": "seconds; shorter recordings are rejected"})
    max_duration: float = field(default=30.0, metadata={"help": "seconds; longer recordings go whole to <split>_long"})
    manifest: str | None = field(
        default=None,
        metadata={
            "aliases": ["--train_manifest"],
            "help": "jsonl_manifest: the file; by default the one *.jsonl in data_dir",
        },
    )
    audio_dirs: list[str] | None = field(
        default=None,
        metadata={"help": "jsonl_manifest: folders to search for audio; by default data_dir and its sub-folders"},
    )
    val_manifest: str | None = field(
        default=None, metadata={"help": "jsonl_manifest: rows of dev; all others are for train"}
    )
    split_file: str | None = field(
        default=None,
        metadata={"help": "jsonl_manifest: splits.json of a prepared corpus, to divide the children as there"},
    )
    val_ratio: float = field(
        default=0.1,
        metadata={"help": "jsonl_manifest, segmented_audio: share of the rows for dev, by speaker; in [0, 1)"},
    )
    stratify_by: str = field(default="age_bucket", metadata={"help": "jsonl_manifest: age_bucket, or none"})
    split_seed: int = field(
        default=42, metadata={"help": "jsonl_manifest, segmented_audio: seed of the division into train and dev"}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={"help": "jsonl_manifest: OURS=THEIRS for every field that the manifest calls otherwise"},
    )
    require_text: bool = field(default=True, metadata={"help": "jsonl_manifest: reject rows without a transcript"})
    external_data: list[str] | None = field(
        default=None, metadata={"help": "jsonl_manifest: names of data from elsewhere in the manifest, for the card"}
    )
    name: str | None = field(default=None, metadata={"help": "name on the data card; the source folder's by default"})
    license: str | None = field(default=None, metadata={"help": "licence for the data card, such as cc-by-4.0"})
    language: str | None = field(default=None, metadata={"help": "language for the data card, such as en"})
    shard_megabytes: int = field(default=500, metadata={"help": "a Parquet file is closed once it has this size"})
    num_proc: int | None = field(default=None, metadata={"help": "worker processes; one per core by default"})
    resume: bool = field(
        default=False, metadata={"help": "go on from finished shards; keep a result if nothing has changed"}
    )
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


ARGUMENTS = (Arguments, PublishArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    if args.builder not in BUILDERS:
        raise UserError(f"builder must be one of {', '.join(BUILDERS)}, got {args.builder!r}")
    for name in ("num_proc", "shard_megabytes"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    builder, options = BUILDERS[args.builder], builder_options(args)
    config = builder.BUILDER_CONFIG_CLASS(**options)
    metrics = run_stage(
        args.output_dir,
        lambda folder: write_corpus(
            builder,
            folder,
            options,
            num_proc=args.num_proc or os.cpu_count(),
            shard_megabytes=args.shard_megabytes,
            name=args.name or Path(config.data_dir).resolve().name,
            source=args.builder,
            license=args.license,
            language=args.language,
        ),
        config=(args, config.recordings()),
        inputs=config.inputs(),
        resume=args.resume,
        alone=True,
    )
    PartialState().print(format_summary(metrics))
    push(publishing, args.output_dir)
    return metrics


def builder_options(args: Arguments) -> dict[str, Any]:
    """What the flags say to the builder. Raises UserError for a flag that only another builder takes."""

    def options(builder: type[CorpusBuilder]) -> set[str]:
        return {option.name for option in fields(builder.BUILDER_CONFIG_CLASS)} - {
            o.name for o in fields(BuilderConfig)
        }

    taken = options(BUILDERS[args.builder]) | {"data_dir"}
    foreign = set().union(*map(options, BUILDERS.values())) - taken
    for flag in fields(Arguments):
        if flag.name in foreign and getattr(args, flag.name) != flag.default:
            raise UserError(
                f"--{flag.name} is no option of the builder {args.builder}; leave it out, or choose its --builder"
            )
    given = {**vars(args), "fields": parse_pairs("fields", args.fields)}
    return {name: value for name, value in given.items() if name in taken}


def format_summary(metrics: dict) -> str:
    lines = [f"{'split':12}{'group':24}{'utterances':>12}{'speakers':>10}{'hours':>9}"]
    lines += [
        f"{row['split']:12}{row['group']:24}{row['utterances']:12}{row['speakers']:10}{row['hours']:9.2f}"
        for row in metrics["groups"]
    ]
    for row in metrics.get("splits", {}).get("strata", ()):
        off = "" if row["deviation"] is None else f" ({100 * row['deviation']:+.1f} points from val_ratio)"
        lines.append(
            f"in dev of {row['stratum']}: {100 * row['dev_share']:.1f} % of the rows{off}, "
            f"{row['dev_speakers']} of {row['train_speakers'] + row['dev_speakers']} speakers"
        )
    rejected = ", ".join(f"{count} {reason}" for reason, count in metrics["rejected"].items())
    return "\n".join([*lines, f"rejected: {rejected or 'none'}"])


if __name__ == "__main__":
    run_recipe(main)
