"""Turn a source corpus into Parquet with the audio inside, a data card and the list of rejected rows.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/prepare_corpus.py --config recipes/configs/prepare_corpus/default.yaml \\
    --builder speaker_json --data_dir data/speakers --output_dir data/prepared

For a corpus with JSONL manifests:

    --builder jsonl_manifest --manifest data/train.jsonl --audio_dirs data/audio_0 data/audio_1 \\
    --output_dir data/prepared

For long recordings, which are cut at their pauses (see also recipes/segment_audio.py):

    --builder segmented_audio --data_dir data/recordings --output_dir data/prepared
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datasets import BuilderConfig

from dataset_scripts import JsonlManifest, SegmentedAudio, SpeakerJson
from dataset_scripts.corpus_builder import CorpusBuilder
from dataset_scripts.jsonl_manifest import STRATA
from dataset_scripts.layouts import MANIFEST, require_layout
from dataset_scripts.prepared import write_corpus
from dataset_scripts.segmented_audio import SPLIT_BY
from dataset_scripts.speaker_json import BROKEN_SPEAKERS
from dataset_scripts.transcripts import DISFLUENCIES
from hf_components.publishing import PublishArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    SEEDS,
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    parse_pairs,
    require_apart,
    run_recipe,
    run_stage,
)
from hf_components.speech import SAMPLING, UNKNOWN, Segmentation

OF_MANIFESTS = (  # flags that pipelines on JSONL manifests pass on
    "manifest",
    "audio_dirs",
    "val_manifest",
    "split_file",
    "val_ratio",
    "stratify_by",
    "split_seed",
    "fields",
    "external_data",
    "max_samples",
    "license",
)
BUILDERS = {"speaker_json": SpeakerJson, "jsonl_manifest": JsonlManifest, "segmented_audio": SegmentedAudio}


@dataclass
class Arguments(Segmentation, RecipeArguments, SeedArguments):
    data_dir: str | None = flag("folder of the source corpus; default: the manifest's", default=None)
    builder: str = flag(f"source layout: {', '.join(BUILDERS)}", default="speaker_json", choices=tuple(BUILDERS))
    sampling: str = flag("random, or stratified: keep the share of every group", default="random", choices=SAMPLING)
    percent: float = flag("share of each split to take, in per cent", default=100.0, above=0, max=100)
    max_samples: int | None = flag("most utterances per split; default: all", default=None, min=1)
    disfluencies: str = flag(
        "speaker_json: keep or drop words in (parentheses)",
        default="keep",
        choices=DISFLUENCIES,
        needs={"builder": "speaker_json"},
    )
    broken_speakers: str = flag(
        "speaker_json: stop at a speaker whose JSON is not valid, or reject it",
        default="stop",
        choices=BROKEN_SPEAKERS,
        needs={"builder": "speaker_json"},
    )
    min_duration: float = flag("seconds; shorter recordings are rejected", default=0.0, min=0)
    max_duration: float = flag("seconds; longer recordings go uncut to <split>_long", default=30.0, above=0)
    manifest: str | None = flag(
        "jsonl_manifest: the file; default: the one *.jsonl in data_dir",
        default=None,
        aliases=["--train_manifest"],
        needs={"builder": "jsonl_manifest"},
    )
    audio_dirs: list[str] | None = flag(
        "jsonl_manifest: folders to search for audio; default: data_dir and its sub-folders",
        default=None,
        needs={"builder": "jsonl_manifest"},
    )
    val_manifest: str | None = flag(
        "jsonl_manifest: rows of dev; all others are for train", default=None, needs={"builder": "jsonl_manifest"}
    )
    split_file: str | None = flag(
        "jsonl_manifest: splits.json of a prepared corpus, to divide the children in the same way",
        default=None,
        needs={"builder": "jsonl_manifest"},
    )
    val_ratio: float = flag(
        "jsonl_manifest, segmented_audio: share of dev",
        default=0.1,
        min=0,
        below=1,
        needs={"builder": ("jsonl_manifest", "segmented_audio"), "val_manifest": False, "split_file": False},
    )
    split_by: str | None = flag(
        "segmented_audio: dev holds out speaker or recording; default: as in segment_audio",
        default=None,
        choices=SPLIT_BY,
        needs={"builder": "segmented_audio"},
    )
    stratify_by: str = flag(
        "jsonl_manifest: age_bucket, or none",
        default="age_bucket",
        choices=STRATA,
        needs={"builder": "jsonl_manifest", "val_manifest": False, "split_file": False},
    )
    split_seed: int = flag(
        "jsonl_manifest, segmented_audio: seed of the train and dev split",
        default=42,
        **SEEDS,
        needs={"builder": ("jsonl_manifest", "segmented_audio"), "val_manifest": False, "split_file": False},
    )
    fields: list[str] | None = flag(
        "jsonl_manifest: OURS=THEIRS for every field with another name",
        default=None,
        needs={"builder": "jsonl_manifest"},
    )
    require_text: bool = flag(
        "jsonl_manifest: reject rows without a transcript", default=True, needs={"builder": "jsonl_manifest"}
    )
    external_data: list[str] | None = flag(
        "jsonl_manifest: names of external data in it, for the card", default=None, needs={"builder": "jsonl_manifest"}
    )
    name: str | None = flag("name on the data card; default: the source folder's", default=None)
    license: str | None = flag("licence for the data card, such as cc-by-4.0", default=None)
    language: str | None = flag("language for the data card, such as en", default=None)
    shard_megabytes: int = flag("size at which a Parquet file is closed", default=500, min=1)
    num_proc: int | None = flag("worker processes; default: one per core", default=None, min=1)


ARGUMENTS = (Arguments, PublishArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    builder = BUILDERS[args.builder]
    options = builder_options(args)
    if args.data_dir and args.builder != MANIFEST:  # which may be elsewhere
        require_layout(args.data_dir, args.builder)
    config = builder.BUILDER_CONFIG_CLASS(**options)
    require_apart(args.output_dir, [config.data_dir])
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
    show(format_summary(metrics))
    push(publishing, args.output_dir)
    return metrics


def builder_options(args: Arguments) -> dict[str, Any]:
    """Return the options of the builder. Raise UserError for a flag that only another builder takes."""

    def options(builder: type[CorpusBuilder]) -> set[str]:
        return {option.name for option in fields(builder.BUILDER_CONFIG_CLASS)} - {
            o.name for o in fields(BuilderConfig)
        }

    taken = options(BUILDERS[args.builder]) | {"data_dir"}
    foreign = set().union(*map(options, BUILDERS.values())) - taken
    for option in fields(Arguments):
        if option.name in foreign and getattr(args, option.name) != option.default:
            raise UserError(
                f"--{option.name} is no option of the builder {args.builder}; leave it out, or choose its --builder"
            )
    given = {**vars(args), "fields": parse_pairs("fields", args.fields)}
    return {name: value for name, value in given.items() if name in taken}


def format_summary(metrics: dict) -> str:
    lines = [f"{'split':12}{'group':24}{'utterances':>12}{'speakers':>10}{'hours':>9}"]
    lines += [
        f"{row['split']:12}{row['group']:24}{row['utterances']:12}{row['speakers'] or UNKNOWN:>10}{row['hours']:9.2f}"
        for row in metrics["groups"]
    ]
    splits = metrics.get("splits", {})
    unit = splits.get("split_by", "speaker")
    for row in splits.get("strata", ()):
        off = "" if row["deviation"] is None else f" ({100 * row['deviation']:+.1f} points from val_ratio)"
        lines.append(
            f"in dev of {row['stratum']}: {100 * row['dev_share']:.1f} % of the rows{off}, "
            f"{row[f'dev_{unit}s']} of {row[f'train_{unit}s'] + row[f'dev_{unit}s']} {unit}s"
        )
    if "held_out" in splits:
        lines.append(f"dev: {splits['held_out']}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in metrics["rejected"].items())
    return "\n".join([*lines, f"rejected: {rejected or 'none'}"])


if __name__ == "__main__":
    run_recipe(main)
