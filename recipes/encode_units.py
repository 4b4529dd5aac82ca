"""Write new recordings as the units of a model that was learnt before.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/encode_units.py --config recipes/configs/encode_units/default.yaml \\
    --model runs/units/model --corpus runs/new/segments --output_dir runs/new/units

Writes the same files as learn_units to --output_dir: units.parquet, units.json, all_units_for_bpe.txt, model/ and a
report. Motifs learnt with these units are found in them: give the folder to build_concordance, export_annotations or
find_motifs.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints import load_model
from hf_components.reporting import show
from hf_components.runtime import (
    SCRATCH,
    RecipeArguments,
    flag,
    full_memory_explained,
    parse_arguments,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import leave_out_unreadable, unreadable_flag
from hf_components.units.learning import load_segments, plot_usage, usage_table, write_units


@dataclass
class Arguments(RecipeArguments):
    model: str = flag("acoustic units: output folder of run_units_pipeline or learn_units + /model, or Hub id")
    corpus: str = flag("segments: output folder of segment_audio, or any prepared corpus", aliases=["--corpus_dir"])
    batch_seconds: float = flag("seconds of speech per batch and process", default=60.0, min=1)
    unreadable_rows: str = unreadable_flag()
    num_workers: int = flag("helper processes that decode audio, per process", default=0, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    report = run_as_stage(produce, args, inputs=[args.corpus, args.model])
    show(usage_table(report["units"], report["splits"]))
    return report


def produce(args: Arguments, folder: Path) -> dict:
    splits = load_segments(args.corpus)
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, args.num_workers)
    model = load_model(AcousticUnitsModel, args.model)
    with full_memory_explained(f"a smaller --batch_seconds (now {args.batch_seconds:g})"):
        usage = write_units(
            model, splits, folder, folder / SCRATCH, batch_seconds=args.batch_seconds, num_workers=args.num_workers
        )
    if not PartialState().is_main_process:
        return {}
    model.save_pretrained(folder / "model")
    report = {"units": model.identity(), "splits": usage}
    plot_usage(folder / "usage.png", usage, f"Use of {model.config.num_units} units in {args.corpus}")
    write_json(folder / "report.json", report)
    return report


if __name__ == "__main__":
    run_recipe(main)
