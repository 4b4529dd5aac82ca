"""Sweep over encoder layers and numbers of units: which units tell phones apart, or look best without labels.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/sweep_units.py --config recipes/configs/sweep_units/default.yaml \\
    --corpus_dir runs/units/segments --phone_labels my_phones.jsonl --output_dir runs/units/sweep
"""

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from hf_components.acoustic_units import DEFAULT_ENCODER, MFCC
from hf_components.runtime import UserError, estimate_rest, parse_arguments, run_recipe, run_stage, write_json
from hf_components.speech import load_corpus, sample_rows
from hf_components.units import read_units
from hf_components.units.learning import (
    Phones,
    label_free_figures,
    learn_centroids,
    load_encoder,
    phone_agreement,
    plot_sweep,
    read_phone_labels,
    write_units,
)

logger = logging.getLogger(__name__)

SHOWN = {
    "nmi": "NMI",
    "nmi_by_chance": "by chance",
    "phone_purity": "phone purity",
    "cluster_purity": "cluster purity",
    "order": "order",
    "speaker_nmi": "NMI with speakers",
    "bits_per_second": "bits per s",
}


@dataclass
class Arguments:
    corpus_dir: str = field(metadata={"help": "output folder of segment_audio, with the splits train and dev"})
    output_dir: str = field(metadata={"help": "folder of sweep.json and sweep.png"})
    encoder: str = field(default=DEFAULT_ENCODER, metadata={"help": f"as of learn_units: folder, Hub id or {MFCC}"})
    layers: list[int] = field(
        default_factory=list, metadata={"help": f"encoder layers, counted from 1; none for {MFCC}"}
    )
    num_units: list[int] = field(default_factory=lambda: [50, 100, 200, 500], metadata={"help": "numbers of units"})
    phone_labels: str | None = field(
        default=None,
        metadata={
            "help": "phones of the recordings of dev: JSON lines with source_file, start, end (seconds "
            "in the recording) and "
            "phone, or a folder of TextGrids named as the recordings"
        },
    )
    phone_tier: str = field(default="phones", metadata={"help": "tier of the TextGrids that holds the phones"})
    max_segments: int = field(
        default=2000, metadata={"help": "segments of each split that take part, drawn by chance"}
    )
    passes: int = field(default=5, metadata={"help": "passes of k-means over the segments, at most"})
    update_seconds: float = field(
        default=200.0, metadata={"help": "seconds of speech from one step of the centroids to the next"}
    )
    batch_seconds: float = field(default=60.0, metadata={"help": "seconds of speech per batch and process"})
    cache_gib: float = field(
        default=20.0, metadata={"help": "features of a layer are kept on the disk up to so many GiB"}
    )
    num_workers: int = field(
        default=0, metadata={"help": "processes that decode audio ahead of the model, per process"}
    )
    seed: int = field(default=42, metadata={"help": "seed of the segments, their order and the first centroids"})
    resume: bool = field(default=False, metadata={"help": "keep a finished result, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if (args.encoder == MFCC) == bool(args.layers):
        raise UserError(
            f"--layers must name layers of --encoder {args.encoder}"
            if args.encoder != MFCC
            else f"--layers must be left out for {MFCC} features, which have none, got {args.layers}"
        )
    inputs = [path for path in (args.corpus_dir, args.encoder, args.phone_labels) if path]
    result = run_stage(
        args.output_dir, lambda folder: produce(args, folder), config=args, inputs=inputs, resume=args.resume
    )
    if PartialState().is_main_process:
        Console().print(summary_table(result))
    return result


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus_dir)
    if missing := {"train", "dev"} - set(corpus):
        raise UserError(f"{args.corpus_dir} has no split {min(missing)}; a sweep learns on train and judges by dev")
    splits = {name: sample_rows(corpus[name], args.max_segments, args.seed) for name in ("train", "dev")}
    labels = read_phone_labels(args.phone_labels, args.phone_tier) if args.phone_labels else None
    state, file = PartialState(), folder / "sweep.json"
    figures = json.loads(file.read_text()) if file.exists() else []
    layers = args.layers or [None]
    done, total = len(figures), len(layers) * len(args.num_units)
    for layer in layers:
        learning = folder / f"layer_{layer}"  # keeps the features of the layer
        for size in args.num_units:
            if any((row["layer"], row["num_units"]) == (layer, size) for row in figures):
                continue
            start = time.perf_counter()
            found = judge(args, splits, labels, learning, layer, size)
            if state.is_main_process:
                # Before its figures are there: a stop here costs this point, afterwards it would spoil the next.
                shutil.rmtree(learning / "units")
                (learning / "kmeans.safetensors").unlink()
                write_json(file, [*figures, found])
            state.wait_for_everyone()
            figures.append(found)
            if len(figures) == done + 1:
                estimate_rest("the sweep", folder, done=1, total=total - done, seconds=time.perf_counter() - start)
        if state.is_main_process:
            shutil.rmtree(learning, ignore_errors=True)
    if not state.is_main_process:
        return {}
    plot_sweep(
        folder / "sweep.png", figures, f"Units of {args.encoder}, judged by {len(splits['dev'])} segments of dev"
    )
    return {
        "encoder": args.encoder,
        "segments": {name: len(rows) for name, rows in splits.items()},
        "figures": figures,
    }


def judge(
    args: Arguments,
    splits: dict[str, Dataset],
    labels: dict[str, Phones] | None,
    folder: Path,
    layer: int | None,
    size: int,
) -> dict:
    """Learn so many units of a layer on train, as learn_units does, and judge them by dev."""
    model = load_encoder(args.encoder, layer, size)
    learn_centroids(
        model,
        splits["train"],
        folder,
        passes=args.passes,
        seed=args.seed,
        update_seconds=args.update_seconds,
        batch_seconds=args.batch_seconds,
        cache_gib=args.cache_gib,
        num_workers=args.num_workers,
    )
    (folder / "units").mkdir(exist_ok=True)
    usage = write_units(
        model,
        splits,
        folder / "units",
        folder / "units" / "parts",
        batch_seconds=args.batch_seconds,
        num_workers=args.num_workers,
    )
    found = {"layer": layer, "num_units": size}
    if PartialState().is_main_process:
        table = read_units(folder / "units")
        train, dev = table.of_split("train"), table.of_split("dev")
        found |= {
            name: usage["dev"][name] for name in ("perplexity", "entropy", "runs_per_second", "inertia_per_frame")
        }
        found |= label_free_figures(train, dev, table.identity, args.seed)
        if labels is not None:
            found |= phone_agreement(dev, labels, args.seed)
            if not found["labelled_frames"]:
                raise UserError(
                    f"{args.phone_labels} labels none of the recordings of dev ({dev['source_file'][0]}, ...); "
                    "labels and recordings must have the same names, but for the suffix"
                )
    return found


def summary_table(result: dict) -> Table:
    """A row per layer and number of units."""
    table = Table(
        title=f"Units of {result['encoder']}, judged by {result['segments']['dev']} segments of dev",
        caption="higher is better: NMI, purities, order; lower: NMI with speakers, bits",
    )
    names = [name for name in SHOWN if any(row.get(name) is not None for row in result["figures"])]
    for heading in ("layer", "units", *(SHOWN[name] for name in names)):
        table.add_column(heading, justify="right")
    for row in result["figures"]:
        table.add_row(
            "-" if row["layer"] is None else str(row["layer"]),
            str(row["num_units"]),
            *(f"{row[name]:.3g}" for name in names),
        )
    return table


if __name__ == "__main__":
    run_recipe(main)
