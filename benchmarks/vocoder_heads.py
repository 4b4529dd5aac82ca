"""The two heads of the unit vocoder on this machine's CPU: speed, and quality after the same training.

OMP_NUM_THREADS=1 python benchmarks/vocoder_heads.py --corpus runs/units/segments --units_dir runs/units/units \\
    --steps 100

Both are trained on the same crops and units for the same number of steps, on the mel loss alone, and speak the same
held-out segments. The real-time factor is time per second of speech; its ratio is measured side by side. MCD is that
of the metric speech_resynthesis. The largest head is only timed, not trained.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import datasets
import numpy as np
import torch

from benchmarks.side_by_side import Work, compare
from hf_components.speech import load_corpus, waveforms
from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel
from hf_components.units import SECONDS_PER_UNIT, UnitTable, read_units
from hf_components.units.resynthesis import measure_segment, shuffled, speak, units_of
from hf_components.units.vocoder import JUDGED, AdversarialArguments, AdversarialTrainer, UnitCrops

HEADS = {
    "istft": {"head": "istft", "hidden_size": 256, "intermediate_size": 768, "num_layers": 6},  # as in quick.yaml
    "hifigan V2": {"head": "hifigan", "upsample_initial_channel": 128},  # the paper's names
    "hifigan V1": {"head": "hifigan", "upsample_initial_channel": 512},  # as in default.yaml
}
LEARNING_RATES = {"istft": 3e-3, "hifigan V2": 1e-3}  # of the heads that are trained


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--units_dir", required=True)
    parser.add_argument("--steps", type=int, default=100, help="steps of training")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--crop_seconds", type=float, default=1.0)
    parser.add_argument("--segments", type=int, default=4, help="held-out segments that are spoken")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)

    corpus = load_corpus(args.corpus)
    table = read_units(args.units_dir)
    models = {name: build(fields, table.identity) for name, fields in HEADS.items()}
    spoken = corpus["dev"].select(range(min(args.segments, len(corpus["dev"]))))
    sequences = units_of(table, spoken)
    works = {
        name: Work(
            lambda model=model: [speak(model, [units]) for units in sequences],
            units=SECONDS_PER_UNIT * sum(map(len, sequences)),
        )
        for name, model in models.items()
    }
    speed = compare(works, repeats=args.repeats, unit="second of speech", products=[(len(sequences[0]), 256, 768)])

    found = {
        name: {
            "parameters": models[name].num_parameters(),
            "real_time_factor": row["seconds"],
            **{key: row[key] for key in ("ratio", "cpu_ratio", "flops")},
        }
        for name, row in speed.items()
    }
    for name, lr in LEARNING_RATES.items():
        found[name] |= train(models[name], lr, corpus, table, args) | distortion(models[name], spoken, sequences)
    print(f"\n{'':10}  {'parameters':>10}  {'RTF':>7}")
    for name, row in found.items():
        print(f"{name:10}  {row['parameters'] / 1e6:8.1f} M  {row['real_time_factor']:7.4f}")
    print(
        f"\nafter {args.steps} steps of {args.batch_size} crops\n{'':10}  {'seconds':>8}  "
        f"{'mel loss':>8}  {'MCD':>5}  "
        f"{'of shuffled units':>17}"
    )
    for name in LEARNING_RATES:
        row = found[name]
        print(
            f"{name:10}  {row['train_seconds']:8.0f}  {row['mel_loss']:8.1f}  {row['mcd']:5.2f}  "
            f"{row['mcd_shuffled_units']:17.2f}"
        )
    return found


def build(fields: dict, identity: dict) -> UnitHifiGanModel:
    torch.manual_seed(0)
    return UnitHifiGanModel(UnitHifiGanConfig(num_units=identity["num_units"], units=identity, **fields)).eval()


def train(
    model: UnitHifiGanModel, lr: float, corpus: datasets.DatasetDict, table: UnitTable, args: argparse.Namespace
) -> dict[str, float]:
    """Train one epoch of `args.steps` steps."""
    units = dict(zip(table.rows["id"].to_pylist(), table.rows["units"].to_numpy(), strict=True))
    crops = (
        UnitCrops(corpus[split], units, round(args.crop_seconds / SECONDS_PER_UNIT), model.config)
        for split in ("train", "dev")
    )
    flags = AdversarialArguments(
        epochs=1,
        samples_per_epoch=args.steps * args.batch_size,
        batch_size=args.batch_size,
        lr=lr,
        adversarial_from_epoch=2,
        checkpoint_every=2,
        report_to="none",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = AdversarialTrainer(model, flags, *crops, Path(folder))
        start = time.perf_counter()
        trainer.train()
    model.remove_weight_norm()
    return {"train_seconds": time.perf_counter() - start, "mel_loss": trainer.history[0][JUDGED]}


def distortion(model: UnitHifiGanModel, rows: datasets.Dataset, sequences: list[list[int]]) -> dict[str, float]:
    """Mean MCD to the original over segments, spoken from their units and from the same units shuffled."""
    figures = []
    for row, original, units in zip(rows, waveforms(rows), sequences, strict=True):
        (own,), (control,) = (speak(model, [sequence]) for sequence in (units, shuffled(units, row["id"], seed=0)))
        figures.append(measure_segment(row["id"], original, own, control))
    return {key: float(np.mean([figure[key] for figure in figures])) for key in ("mcd", "mcd_shuffled_units")}


if __name__ == "__main__":
    main()
