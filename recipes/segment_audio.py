"""Cut long recordings at their pauses into a prepared corpus of segments without transcripts.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/segment_audio.py --config recipes/configs/segment_audio/default.yaml \\
    --data_dir data/demo_long --output_dir data/segments

Reads MP3, WAV, FLAC, OGG and others, of any length, rate and number of channels. Writes Parquet with 16 kHz mono audio
inside, statistics, a histogram and the list of rejected files to --output_dir. recipes/prepare_corpus.py with
--builder segmented_audio does the same without the histogram.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path

from rich.table import Table

from dataset_scripts import SegmentedAudio
from dataset_scripts.prepared import write_corpus
from dataset_scripts.segmented_audio import SPLIT_BY, SegmentedAudioConfig
from hf_components.publishing import PublishArguments, push
from hf_components.reporting import plot_histogram, show
from hf_components.runtime import SEEDS, RecipeArguments, flag, parse_arguments, require_apart, run_recipe, run_stage
from hf_components.speech import Segmentation

BAR = 40  # characters of the longest bar of the histogram


@dataclass
class Arguments(Segmentation, RecipeArguments):
    data_dir: str = flag(
        "folder of recordings at any depth; its sub-folders are the speakers, if there are at least two; without them "
        "speakers are unknown",
        aliases=["--audio_dir"],
    )
    val_ratio: float = flag(
        "share of the segments for dev; of a recording that cannot be spared, its last part",
        default=0.1,
        min=0,
        below=1,
    )
    split_by: str | None = flag(
        "what dev holds out: speaker or recording; default: speakers if two or more are known and val_ratio can be "
        "kept, else recordings",
        default=None,
        choices=SPLIT_BY,
    )
    split_seed: int = flag("seed of the division into train and dev", default=42, **SEEDS)
    boundaries: str | None = flag(
        "folder of TextGrid or ELAN files, such as the corrected output of export_annotations: a recording that has "
        "one is cut at the intervals of a tier, not at its pauses",
        default=None,
    )
    boundary_tier: str = flag("the tier whose intervals are segments", default="segments", needs="boundaries")
    name: str | None = flag("name on the data card; default: the source folder's", default=None)
    license: str | None = flag("licence for the data card, such as cc-by-4.0", default=None)
    language: str | None = flag("language for the data card, such as en", default=None)
    num_proc: int | None = flag("worker processes; default: one per core", default=None, min=1)


ARGUMENTS = (Arguments, PublishArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    taken = {option.name for option in fields(SegmentedAudioConfig)} - {"name"}
    options = {name: value for name, value in vars(args).items() if name in taken}
    config = SegmentedAudioConfig(**options)
    require_apart(args.output_dir, [args.data_dir], wholly=True)
    config.new_detector()  # raises now if its package is missing

    def produce(folder: Path) -> dict:
        metrics = write_corpus(
            SegmentedAudio,
            folder,
            options,
            num_proc=args.num_proc or os.cpu_count(),
            source="segmented_audio",
            name=args.name or Path(args.data_dir).resolve().name,
            license=args.license,
            language=args.language,
        )
        found = metrics["segments"]
        plot_histogram(
            folder / "durations.png",
            **found["histogram"],
            x_label="duration (s)",
            y_label="segments",
            title=f"Length of {found['segments']} segments, {found['duration']['mean']:.1f} s on average",
        )
        return metrics

    metrics = run_stage(args.output_dir, produce, config=(args, config.recordings()), resume=args.resume, alone=True)
    show(histogram(metrics["segments"]["histogram"]), summary(metrics, args.output_dir))
    push(publishing, args.output_dir)
    return metrics


def summary(metrics: dict, title: str) -> Table:
    """Table of recordings, segments, and what was left out and why."""
    segments = metrics["segments"]
    table = Table("", "number", "minutes", "share", title=title)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(name: str, number: int | None, seconds: float) -> None:
        share = f"{100 * seconds / segments['seconds']['total']:.1f} %"
        table.add_row(name, "" if number is None else str(number), f"{seconds / 60:.1f}", share)

    row("recordings", segments["recordings"], segments["seconds"]["total"])
    for split in metrics["rows"]:
        row(
            f"segments: {split}",
            metrics["rows"][split],
            sum(3600 * group["hours"] for group in metrics["groups"] if group["split"] == split),
        )
    for reason in ("silence", "too short"):
        row(f"left out: {reason}", None, segments["seconds"][reason])
    for reason, files in metrics["rejected"].items():
        table.add_row(f"rejected: {reason}", str(files), "", "")
    duration = segments["duration"]
    table.caption = (
        f"{duration['mean']:.2f} s per segment on average, median {duration['median']:.2f}, "
        f"{duration['shortest']:.2f} to {duration['longest']:.2f}"
    )
    if held_out := metrics["splits"].get("held_out"):
        table.caption += f"; dev: {held_out}"
    return table


def histogram(found: dict) -> str:
    """Segments by duration, as text."""
    return "\n".join(
        f"{low:6.2f} to {high:6.2f} s {count:7} {'█' * -(-BAR * count // max(found['counts']))}"
        for low, high, count in zip(found["edges"], found["edges"][1:], found["counts"], strict=False)
    )


if __name__ == "__main__":
    run_recipe(main)
