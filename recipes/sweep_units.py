"""Sweep over encoder layers and numbers of units, and score the units by phone labels or without labels.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/sweep_units.py --config recipes/configs/sweep_units/default.yaml \\
    --corpus runs/units/segments --phone_labels my_phones.jsonl --output_dir runs/units/sweep

--phone_labels are the phones of the recordings of dev: JSON lines with source_file, start, end (seconds in the
recording) and phone, or a folder of TextGrids with the names of the recordings. Writes sweep.json and sweep.png to
--output_dir.
"""

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from rich.table import Table

from hf_components.acoustic_units import DEFAULT_ENCODER, MFCC
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    estimate_rest,
    flag,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import load_corpus, sample_rows, say_speakers
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

FIGURES = "sweep.json"
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
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("output folder of segment_audio, with the splits train and dev", aliases=["--corpus_dir"])
    model: str = flag(
        f"encoder, as in learn_units: folder, Hub id or {MFCC}", default=DEFAULT_ENCODER, aliases=["--encoder"]
    )
    layers: list[int] = flag(f"encoder layers, counted from 1; none for {MFCC}", default=[], min=1)
    num_units: list[int] = flag("numbers of units", default=[50, 100, 200, 500], min=2)
    phone_labels: str | None = flag("phones of the dev recordings: JSON lines or a folder of TextGrids", default=None)
    phone_tier: str = flag("tier of the TextGrids that holds the phones", default="phones", needs="phone_labels")
    max_samples: int = flag("segments drawn at random per split", default=2000, aliases=["--max_segments"], min=1)
    passes: int = flag("most passes of k-means over the segments", default=5, min=1)
    update_seconds: float = flag("seconds of speech per step of the centroids", default=200.0, above=0)
    batch_seconds: float = flag("seconds of speech per batch and process", default=60.0, above=0)
    cache_gib: float = flag("keep the features of a layer on the disk if they fit in so many GiB", default=20.0, min=0)
    num_workers: int = flag("helper processes that decode audio, per process", default=0, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if (args.model == MFCC) == bool(args.layers):
        raise UserError(
            f"--layers must name layers of --model {args.model}"
            if args.model != MFCC
            else f"--layers must be left out for {MFCC} features, which have none, got {args.layers}"
        )
    result = run_as_stage(produce, args, inputs=[args.corpus, args.model, args.phone_labels])
    show(summary_table(result))
    return result


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, shared_speakers=True)
    if missing := {"train", "dev"} - set(corpus):
        raise UserError(f"{args.corpus} has no split {min(missing)}; a sweep learns on train and scores on dev")
    splits = {name: sample_rows(corpus[name], args.max_samples, args.seed) for name in ("train", "dev")}
    labels = read_phone_labels(args.phone_labels, args.phone_tier) if args.phone_labels else None
    state = PartialState()
    file = folder / FIGURES
    figures = read_figures(folder)
    layers = args.layers or [None]
    done = len(figures)
    total = len(layers) * len(args.num_units)
    for layer in layers:
        learning = folder / f"layer_{layer}"  # keeps the features of the layer
        for size in args.num_units:
            if any((row["layer"], row["num_units"]) == (layer, size) for row in figures):
                continue
            start = time.perf_counter()
            found = score(args, splits, labels, learning, layer, size)
            if state.is_main_process:
                # Delete before writing the figures: a stop here loses this point, a stop later would spoil the next.
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
    plot_sweep(folder / "sweep.png", figures, f"Units of {args.model}, scored on {len(splits['dev'])} segments of dev")
    return {
        "encoder": args.model,
        "segments": {name: len(rows) for name, rows in splits.items()},
        "voices": say_speakers(splits["dev"].unique("speaker_id")),
        "figures": figures,
    }


def read_figures(folder: Path) -> list[dict]:
    """The figures of an interrupted sweep. Raises UserError if they are damaged."""
    file = folder / FIGURES
    form = [{"layer": (int, None), "num_units": int}]
    return read_record(file, form, "delete it to score all sizes again") if file.exists() else []


def score(
    args: Arguments,
    splits: dict[str, Dataset],
    labels: dict[str, Phones] | None,
    folder: Path,
    layer: int | None,
    size: int,
) -> dict:
    """Learn `size` units of a layer on train, the same as in learn_units, and score them on dev."""
    model = load_encoder(args.model, layer, size)
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
        train = table.of_split("train")
        dev = table.of_split("dev")
        found |= {
            name: usage["dev"][name] for name in ("perplexity", "entropy", "runs_per_second", "inertia_per_frame")
        }
        found |= label_free_figures(train, dev, table.identity, args.seed)
        if labels is not None:
            found |= phone_agreement(dev, labels, args.seed)
            if not found["labelled_frames"]:
                raise UserError(
                    f"{args.phone_labels} labels none of the recordings of dev ({dev['source_file'][0]}, ...); "
                    "labels and recordings must have the same names, except for the suffix, and times in seconds"
                )
    return found


def summary_table(result: dict) -> Table:
    """A row per layer and number of units."""
    table = Table(
        title=f"Units of {result['encoder']}, scored on {result['segments']['dev']} segments of dev "
        f"({result['voices']})",
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
