"""Learn discrete acoustic units on the segments of a corpus, and write every segment as units.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/learn_units.py --config recipes/configs/learn_units/default.yaml \\
    --corpus runs/units/segments --output_dir runs/units/units

Writes model/, units.parquet, units.json, all_units_for_bpe.txt and a report to --output_dir.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from hf_components.acoustic_units import DEFAULT_ENCODER, FRAME, MFCC, SYLLABLE
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    full_memory_explained,
    note_written,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    sync_folder,
    write_json,
)
from hf_components.speech import leave_out_unreadable, unreadable_flag
from hf_components.units.learning import (
    BPE_SPLIT,
    learn_centroids,
    load_encoder,
    load_segments,
    plot_usage,
    usage_table,
    write_units,
)

logger = logging.getLogger(__name__)

REPORT, WORK = "report.json", "learning"  # file that is written last; folder from which a stopped run continues


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("segments: output folder of segment_audio, or any prepared corpus", aliases=["--corpus_dir"])
    model: str = flag(
        f"wav2vec2, HuBERT, WavLM, w2v-BERT or Whisper: folder or Hub id; or {MFCC}, which needs no weights",
        default=DEFAULT_ENCODER,
        aliases=["--encoder"],
    )
    layer: int | None = flag(
        f"encoder layer to cluster, from 1; default: 14, three quarters up in a Whisper, none for {MFCC}",
        default=None,
        min=1,
    )
    unit_rate: str = flag(
        f"{FRAME}: a unit per 20 ms; {SYLLABLE}: one unit between two changes of sound",
        default=FRAME,
        choices=(FRAME, SYLLABLE),
    )
    num_units: int = flag("units to learn", default=100, min=2)
    passes: int = flag("most passes of k-means on train; ends if one gains less than a thousandth", default=10, min=1)
    update_seconds: float = flag("seconds of speech (all processes) per step of the centroids", default=200.0, min=1)
    batch_seconds: float = flag("seconds of speech per batch and process", default=60.0, min=1)
    cache_gib: float = flag(
        "keep features on the disk between passes if all fit in so many GiB; 0: compute them anew", default=20.0, min=0
    )
    unreadable_rows: str = unreadable_flag()
    num_workers: int = flag("helper processes that decode audio, per process", default=0, min=0)


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    report = run_as_stage(explained, args, inputs=[args.corpus, args.model])
    show(usage_table(report["units"], report["splits"], caption_of(report)))
    push(publishing, Path(args.output_dir) / "model")
    return report


def explained(args: Arguments, folder: Path) -> dict:
    with full_memory_explained(
        f"a smaller --batch_seconds (now {args.batch_seconds:g}), an earlier --layer, or a smaller --model"
    ):
        return produce(args, folder)


def produce(args: Arguments, folder: Path) -> dict:
    if (folder / REPORT).exists():  # an earlier run was killed while it tidied up
        return finish(folder)
    splits = load_segments(args.corpus)
    if BPE_SPLIT not in splits:
        raise UserError(
            f"{args.corpus} has no split {BPE_SPLIT!r}, which units are learnt from; it has {', '.join(splits)}"
        )
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, args.num_workers)
    model = load_encoder(args.model, args.layer, args.num_units, args.unit_rate)
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
    bits = f"entropy {report['entropy']:.2f} of at most {report['entropy_of_even_use']:.2f} bits"
    plot_usage(folder / "usage.png", usage, f"Use of {args.num_units} units: {bits}")
    if dead := len(report["dead_units"]):
        text = "%d of %d units are never used; lower --num_units, or take more speech"
        logger.warning(text, dead, args.num_units)
    sync_folder(folder)  # before the report: it must not exist if a file did not reach the disk
    write_json(folder / REPORT, report)
    note_written(folder)
    return finish(folder)


def finish(folder: Path) -> dict:
    """Delete the work folder, and return the report."""
    if PartialState().is_main_process:
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return read_record(folder / REPORT, dict, f"delete {folder} to learn the units again")


def caption_of(report: dict) -> str:
    first = report["passes"][0]
    return f"{len(report['passes'])} passes, mean squared distance {first:.3f} -> {report['inertia_per_frame']:.3f}"


if __name__ == "__main__":
    run_recipe(main)
