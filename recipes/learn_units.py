"""Learn discrete acoustic units on the segments of a corpus, and write every segment as units.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/learn_units.py --config recipes/configs/learn_units/default.yaml \\
    --corpus_dir runs/units/segments --output_dir runs/units/units
"""

import json
import logging
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from rich.table import Table

from hf_components.acoustic_units import DEFAULT_ENCODER, MFCC
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import plot_curves
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage, write_json
from hf_components.speech import LONG, load_corpus
from hf_components.units.learning import BPE_SPLIT, learn_centroids, load_encoder, write_units

logger = logging.getLogger(__name__)

REPORT, WORK = "report.json", "learning"  # what is written last, and the folder of what a stopped run goes on from
SHORTEST = 0.025  # seconds that a frame hears
NUMBERS = {
    "num_units": 2,
    "passes": 1,
    "update_seconds": 1,
    "batch_seconds": 1,
    "cache_gib": 0,
    "num_workers": 0,
}  # at least


@dataclass
class Arguments:
    corpus_dir: str = field(
        metadata={"aliases": ["--corpus"], "help": "segments: output folder of segment_audio, or any prepared corpus"}
    )
    output_dir: str = field(
        metadata={"help": "folder of model/, units.parquet, units.json, all_units_for_bpe.txt and report"}
    )
    encoder: str = field(
        default=DEFAULT_ENCODER,
        metadata={
            "help": f"wav2vec2, HuBERT, WavLM or w2v-BERT: folder or Hub id; or {MFCC} for features that "
            "need no weights"
        },
    )
    layer: int | None = field(
        default=None,
        metadata={"help": f"encoder layer whose output is clustered, from 1; 14 by default, none for {MFCC}"},
    )
    num_units: int = field(default=100, metadata={"help": "units to learn"})
    passes: int = field(
        default=10,
        metadata={
            "help": "passes of k-means over the split train, at most; it ends once one gains less than a thousandth"
        },
    )
    update_seconds: float = field(
        default=200.0,
        metadata={"help": "seconds of speech from one step of the centroids to the next, which all processes share"},
    )
    batch_seconds: float = field(default=60.0, metadata={"help": "seconds of speech per batch and process"})
    cache_gib: float = field(
        default=20.0,
        metadata={
            "help": "keep features on the disk from pass to pass if all of them take at most so many "
            "GiB; 0 computes them anew"
        },
    )
    num_workers: int = field(
        default=0, metadata={"help": "processes that decode audio ahead of the model, per process"}
    )
    seed: int = field(default=42, metadata={"help": "seed of the order of the segments and of the first centroids"})
    resume: bool = field(default=False, metadata={"help": "keep a finished result, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    for name, least in NUMBERS.items():
        if not least <= getattr(args, name) < math.inf:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}")
    report = run_stage(
        args.output_dir,
        lambda folder: produce(args, folder),
        config=args,
        inputs=[args.corpus_dir, args.encoder],
        resume=args.resume,
    )
    if PartialState().is_main_process:
        Console().print(summary_table(report))
    push(publishing, Path(args.output_dir) / "model")
    return report


def produce(args: Arguments, folder: Path) -> dict:
    if (folder / REPORT).exists():  # killed while it tidied up
        return finish(folder)
    splits = load_segments(args.corpus_dir)
    model = load_encoder(args.encoder, args.layer, args.num_units)
    kmeans = learn_centroids(
        model,
        splits[BPE_SPLIT],
        folder / WORK,
        passes=args.passes,
        seed=args.seed,
        update_seconds=args.update_seconds,
        batch_seconds=args.batch_seconds,
        cache_gib=args.cache_gib,
        num_workers=args.num_workers,
    )
    usage = write_units(
        model, splits, folder, folder / WORK / "parts", batch_seconds=args.batch_seconds, num_workers=args.num_workers
    )
    if not PartialState().is_main_process:
        return {}
    model.save_pretrained(folder / "model")
    report = {
        "units": model.identity(),
        **usage[BPE_SPLIT],
        "passes": kmeans.passes,
        "revived": kmeans.revived,
        "splits": usage,
    }
    plot_curves(
        folder / "usage.png",
        {
            split: sorted((100 * n / found["frames"] for n in found["usage"]), reverse=True)
            for split, found in usage.items()
        },
        "unit, the most used first",
        "share of frames (%)",
        f"{args.num_units} units, entropy {report['entropy']:.2f} of {report['entropy_of_even_use']:.2f} bits",
    )
    if report["dead_units"]:
        logger.warning(
            "%d of %d units are never used; lower --num_units, or take more speech",
            len(report["dead_units"]),
            args.num_units,
        )
    write_json(folder / REPORT, report)
    return finish(folder)


def finish(folder: Path) -> dict:
    """Leave the result alone in the folder, and return its report."""
    if PartialState().is_main_process:
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return json.loads((folder / REPORT).read_text())


def load_segments(corpus_dir: str) -> dict:
    """The splits, without recordings too long for an encoder.

    Raises:
        UserError: there is no split to learn from, or a segment is shorter than a frame.
    """
    corpus = load_corpus(corpus_dir)
    if BPE_SPLIT not in corpus:
        raise UserError(
            f"{corpus_dir} has no split {BPE_SPLIT!r}, which units are learnt from; it has {', '.join(corpus)}"
        )
    for name in (name for name in corpus if name.endswith(LONG)):
        logger.warning(
            "%d recordings of %s are too long and take no part; segment_audio cuts them", len(corpus[name]), name
        )
    splits = {name: rows for name, rows in corpus.items() if not name.endswith(LONG)}
    for name, rows in splits.items():
        durations = rows["duration"][:]
        if durations and min(durations) < SHORTEST:
            shortest = durations.index(min(durations))
            raise UserError(
                f"{rows['id'][shortest]} of {name} is {1000 * durations[shortest]:.0f} ms long, but a unit hears "
                f"{1000 * SHORTEST:.0f} ms; segment the recordings with a minimum length"
            )
    return splits


def summary_table(report: dict) -> Table:
    """A row per split."""
    units = report["units"]
    table = Table(
        title=f"{units['num_units']} units of {units['encoder']}"
        + (f", layer {units['layer']}" if units["layer"] else ""),
        caption=f"{len(report['passes'])} passes, mean squared distance {report['passes'][0]:.3f} -> "
        f"{report['inertia_per_frame']:.3f}",
    )
    columns = {
        "segments": "d",
        "frames": "d",
        "entropy": ".2f",
        "perplexity": ".1f",
        "frames_per_run": ".2f",
        "inertia_per_frame": ".3f",
    }
    table.add_column("split")
    for name in (*columns, "dead units"):
        table.add_column(name.replace("_", " "), justify="right")
    for split, found in report["splits"].items():
        table.add_row(
            split, *(format(found[name], form) for name, form in columns.items()), str(len(found["dead_units"]))
        )
    return table


if __name__ == "__main__":
    run_recipe(main)
