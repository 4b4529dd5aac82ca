"""Build a page of motifs with clips to listen to, each in its context.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/build_concordance.py --config recipes/configs/build_concordance/default.yaml \\
    --corpus_dir runs/units/segments --units_dir runs/units/units --motifs_dir runs/units/motifs \\
    --output_dir runs/units/concordance
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from datasets import concatenate_datasets

from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage
from hf_components.speech import load_corpus
from hf_components.units import check_same_units, read_units
from hf_components.units.motifs import Motifs, build_concordance, describe_motifs, find_occurrences


@dataclass
class Arguments:
    corpus_dir: str = field(metadata={"help": "output folder of segment_audio"})
    units_dir: str = field(metadata={"help": "output folder of learn_units"})
    motifs_dir: str = field(metadata={"help": "output folder of learn_motifs"})
    output_dir: str = field(
        metadata={"help": "folder of index.html and clips/, which may be moved and needs no network"}
    )
    num_motifs: int = field(default=100, metadata={"help": "how many motifs are shown, the most frequent first"})
    min_units: int = field(
        default=3, metadata={"help": "units of a motif at least; the most frequent pairs are mostly noise"}
    )
    clips_per_motif: int = field(
        default=10, metadata={"help": "occurrences of each, drawn by chance if there are more"}
    )
    context_seconds: float = field(default=0.5, metadata={"help": "seconds to hear before and after a motif"})
    seed: int = field(default=42, metadata={"help": "decides which occurrences"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})

    def __post_init__(self):
        for name, least in (("num_motifs", 1), ("min_units", 2), ("clips_per_motif", 1), ("context_seconds", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    metrics = run_stage(
        args.output_dir,
        lambda folder: produce(args, folder),
        config=args,
        inputs=[args.corpus_dir, args.units_dir, args.motifs_dir],
        resume=args.resume,
        alone=True,
    )
    if PartialState().is_main_process:
        print(f"{metrics['clips']} clips of {metrics['motifs']} motifs: {Path(args.output_dir) / 'index.html'}")
    return metrics


def produce(args: Arguments, folder: Path) -> dict:
    table, motifs = read_units(args.units_dir), Motifs.from_pretrained(args.motifs_dir)
    check_same_units(motifs.identity, args.motifs_dir, table.identity, args.units_dir)
    found = find_occurrences(motifs, table.rows)
    described = [motif for motif in describe_motifs(motifs, table.rows, found) if motif["length"] >= args.min_units]
    return build_concordance(
        folder,
        described,
        table.rows,
        found,
        concatenate_datasets(list(load_corpus(args.corpus_dir).values())),
        num_motifs=args.num_motifs,
        clips_per_motif=args.clips_per_motif,
        context_seconds=args.context_seconds,
        seed=args.seed,
    )


if __name__ == "__main__":
    run_recipe(main)
