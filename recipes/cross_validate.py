"""Cross-validate the pipeline of MoE-Whisper over all speakers: every system of it, in every fold.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/cross_validate.py --folds 5 --output_dir runs/cross_validation \\
    --config recipes/configs/run_moe_pipeline/default.yaml --data data/my_speakers --model openai/whisper-small

All other flags, --config too, are those of run_moe_pipeline, which runs once per fold into <output_dir>/fold_<i>. Each
speaker is held out once. An interrupted run goes on where it stopped. --only_folds 0 2 runs some folds now; the
figures are those of all folds that are finished.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the pipeline as recipes.run_moe_pipeline

from accelerate import PartialState

from hf_components.moe import CANDIDATES
from hf_components.moe.benchmark import cross_validated, plot_benchmark, summary_tables
from hf_components.reporting import show
from hf_components.runtime import SEEDS, UserError, flag, parse_own_arguments, run_recipe, write_json
from recipes import run_moe_pipeline

EVERY_UTTERANCE = 10**6


@dataclass(kw_only=True)
class Arguments:
    output_dir: str = flag("folder of the result, with one per fold")
    folds: int = flag("number of folds", default=5, min=2)
    only_folds: list[int] | None = flag("folds to run now, from 0; default: all", default=None, min=0)
    bootstrap_seed: int = flag("seed of the intervals", default=42, **SEEDS)

    def __post_init__(self):
        if too_large := [fold for fold in self.only_folds or () if fold >= self.folds]:
            raise UserError(f"--only_folds counts from 0 to {self.folds - 1}, got {too_large[0]}")


def main(argv: list[str] | None = None) -> dict:
    args, pipeline_flags = parse_own_arguments(Arguments, sys.argv[1:] if argv is None else argv, __doc__)
    out = Path(args.output_dir)
    for fold in range(args.folds) if args.only_folds is None else args.only_folds:
        run_moe_pipeline.main(
            [
                f"--benchmark_max_samples={EVERY_UTTERANCE}",
                *pipeline_flags,
                f"--output_dir={out / f'fold_{fold}'}",
                f"--folds={args.folds}",
                f"--fold={fold}",
            ]
        )
        if not (out / f"fold_{fold}" / "results.json").exists():
            return {}  # a dry run
    folders = {fold: out / f"fold_{fold}" for fold in range(args.folds)}
    finished = {fold: folder for fold, folder in folders.items() if (folder / "results.json").exists()}
    result = cross_validated(finished, CANDIDATES, args.folds, seed=args.bootstrap_seed)
    if PartialState().is_main_process:
        write_json(out / "results.json", result)
        plot_benchmark(out, result)
        show(*summary_tables(result))
    return result


if __name__ == "__main__":
    run_recipe(main)
