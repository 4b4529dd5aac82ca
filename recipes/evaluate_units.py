"""Evaluate learnt units against phone alignments: PNMI, purities, ABX, bitrate, robustness, each with an interval.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/evaluate_units.py --config recipes/configs/evaluate_units/default.yaml \\
    --units_dir runs/units/units --alignments my_alignments --output_dir runs/units/yardsticks

--alignments are the phones of the recordings: TextGrid (Praat, MFA), ELAN, CTM, JSON lines, or the table of DiscoPhon.
Writes results.json, results.png and rejected.jsonl (alignments that cannot be read, segments without one) to
--output_dir. With --corpus it also measures how far noise and speed change the units.
"""

from dataclasses import dataclass
from pathlib import Path

from hf_components.reporting import show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    SeedArguments,
    flag,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    write_json,
    write_json_lines,
)
from hf_components.units import read_units
from hf_components.units.evaluation import (
    SILENCES,
    align_segments,
    figures_of,
    figures_table,
    load_units_model,
    plot_figures,
    read_alignments,
    robustness,
    sampled_audio,
)

RESULTS = "results.json"


@dataclass(kw_only=True)
class Arguments(RecipeArguments, SeedArguments, PlotArguments):
    units_dir: str = flag("output folder of learn_units")
    alignments: str = flag("phones with their times: a TextGrid, .eaf, .ctm, .jsonl or DiscoPhon .txt, or a folder")
    phone_tier: str = flag("tier of TextGrid and ELAN files that holds the phones", default="phones")
    silences: list[str] = flag("labels that are no phones", default=list(SILENCES))
    split: str | None = flag("split to score; default: all segments that are aligned", default=None)
    max_tokens: int = flag("most tokens of a triphone and speaker in ABX, drawn at random", default=10, min=2)
    corpus: str | None = flag("corpus of the units: also measure robustness on its audio", default=None)
    max_samples: int = flag("segments for robustness, drawn at random", default=50, min=1, needs="corpus")
    noise_snr: list[float] = flag("white noise, dB", default=[20.0, 10.0], min=-50, max=100, needs="corpus")
    speeds: list[float] = flag("factors of speed and pitch", default=[0.9, 1.1], min=0.5, max=2, needs="corpus")
    num_bootstrap: int = flag("number of bootstrap samples of recordings for each interval", default=1000, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [args.units_dir, args.alignments, args.corpus]
    results = run_as_stage(produce, args, inputs=inputs, alone=True, derive={"plot": plot})
    show(figures_table(results))
    return results


def produce(args: Arguments, folder: Path) -> dict:
    table = read_units(args.units_dir)
    rows = table.of_split(args.split) if args.split else table.rows
    alignments = read_alignments(args.alignments, args.phone_tier, args.silences)
    segments = align_segments(rows, alignments, f"{args.alignments} aligns none of the recordings of {args.units_dir}")
    write_json_lines(folder / "rejected.jsonl", alignments.rejected)
    results = figures_of(segments, max_tokens=args.max_tokens, num_bootstrap=args.num_bootstrap, seed=args.seed)
    results |= {
        "robustness": {},
        "rejected": len(alignments.rejected),
        "alignments": args.alignments,
        "units": table.identity,
    }
    if args.corpus:
        add_robustness(args, results, segments)
    write_json(folder / RESULTS, results)
    if args.plot:
        plot(folder, folder)
    return results


def add_robustness(args: Arguments, results: dict, segments: list[dict]) -> None:
    """Add how far noise and speed change the units of a sample of the segments."""
    model = load_units_model(args.units_dir, results["units"])
    sample, recordings = sampled_audio(args.corpus, segments, args.units_dir, args.max_samples, args.seed)
    results["robustness"], intervals = robustness(
        model,
        sample,
        recordings,
        noise_snr=args.noise_snr,
        speeds=args.speeds,
        num_bootstrap=args.num_bootstrap,
        seed=args.seed,
    )
    results["intervals"] |= {f"robustness {name}": bounds for name, bounds in intervals.items()}


def plot(finished: Path, folder: Path) -> None:
    results = read_record(finished / RESULTS, dict, "the plot needs it; leave out --plot")
    plot_figures(folder / "results.png", results)


if __name__ == "__main__":
    run_recipe(main)
