"""Build a page of motifs with clips to listen to, each in its context.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/build_concordance.py --config recipes/configs/build_concordance/default.yaml \\
    --corpus runs/units/segments --units_dir runs/units/units --motifs_dir runs/units/motifs \\
    --output_dir runs/units/concordance

Writes index.html and clips/ to --output_dir. The page needs no network, and the folder may be moved.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from datasets import concatenate_datasets

from hf_components.runtime import RecipeArguments, SeedArguments, flag, parse_arguments, run_as_stage, run_recipe
from hf_components.speech import load_corpus
from hf_components.units import check_same_units, read_units
from hf_components.units.motifs import Motifs, build_concordance, find_occurrences, list_motifs


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("output folder of segment_audio", aliases=["--corpus_dir"])
    units_dir: str = flag("output folder of learn_units")
    motifs_dir: str = flag("output folder of learn_motifs")
    num_motifs: int = flag("number of motifs on the page, the most frequent first", default=100, min=1)
    min_units: int = flag("units of the shortest motif; the most frequent pairs are mostly noise", default=3, min=2)
    clips_per_motif: int = flag("occurrences of each motif, drawn at random if there are more", default=10, min=1)
    context_seconds: float = flag("seconds of audio before and after a motif", default=0.5, min=0, max=60)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    metrics = run_as_stage(produce, args, inputs=[args.corpus, args.units_dir, args.motifs_dir], alone=True)
    if PartialState().is_main_process:
        print(f"{metrics['clips']} clips of {metrics['motifs']} motifs: {Path(args.output_dir) / 'index.html'}")
    return metrics


def produce(args: Arguments, folder: Path) -> dict:
    table = read_units(args.units_dir)
    motifs = Motifs.from_pretrained(args.motifs_dir)
    check_same_units(motifs.identity, args.motifs_dir, table.identity, args.units_dir)
    found = find_occurrences(motifs, table.rows)
    described = [motif for motif in list_motifs(motifs, table.rows, found) if motif["length"] >= args.min_units]
    return build_concordance(
        folder,
        described,
        table.rows,
        found,
        concatenate_datasets(list(load_corpus(args.corpus, shared_speakers=True).values())),
        table.identity,
        num_motifs=args.num_motifs,
        clips_per_motif=args.clips_per_motif,
        context_seconds=args.context_seconds,
        seed=args.seed,
    )


if __name__ == "__main__":
    run_recipe(main)
