"""Learn motifs: byte-pair encoding joins units that often follow each other into a vocabulary.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/learn_motifs.py --config recipes/configs/learn_motifs/default.yaml \\
    --units_dir runs/units/units --output_dir runs/units/motifs

Writes motifs.model, motifs.vocab, the tokenizer, motif_analysis.json and motifs.png to --output_dir. If the data hold
too few motifs, the vocabulary is smaller than --vocab_size.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.units import read_units
from hf_components.units.motifs import (
    Motifs,
    find_occurrences,
    list_motifs,
    measure_compression,
    plot_motifs,
    save_motifs,
    train_motifs,
)

logger = logging.getLogger(__name__)

SHOWN = 10  # motifs in the table
LEARNT_BY_HEART = 1.5  # times as many units per motif in train as in dev


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    units_dir: str = flag("output folder of learn_units")
    vocab_size: int = flag("most motifs, single units and special symbols (four) together", default=500, min=5)


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    analysis = run_as_stage(produce, args, inputs=[args.units_dir], alone=True)
    show(summary_table(analysis))
    push(publishing, args.output_dir)
    return analysis


def produce(args: Arguments, folder: Path) -> dict:
    table = read_units(args.units_dir)
    train = table.of_split("train")
    model = train_motifs(train["deduplicated"].to_pylist(), table.identity["num_units"], args.vocab_size)
    save_motifs(folder, model, table.identity)

    motifs = Motifs.from_pretrained(folder)
    splits = {name: table.of_split(name) for name in sorted(set(table.rows["split"].to_pylist()))}
    found = {name: find_occurrences(motifs, rows) for name, rows in splits.items()}
    described = list_motifs(motifs, train, found["train"])
    analysis = {
        "vocab_size": len(motifs.units),
        "vocab_size_asked_for": args.vocab_size,
        "num_motifs": len(described),
        "counted_in": "train",  # the concordance counts in all splits
        "compression": {
            name: measure_compression(motifs, rows, found[name], args.seed) for name, rows in splits.items()
        },
        "units": table.identity,
    }
    warn_of_rote(analysis["compression"])
    write_json(folder / "motif_analysis.json", {**analysis, "motifs": described})
    plot_motifs(
        folder / "motifs.png",
        described,
        f"{len(described)} motifs over {table.identity['num_units']} units, {len(train)} segments of the split train",
    )
    return {**analysis, "top_motifs": described[:SHOWN]}


def warn_of_rote(compression: dict) -> None:
    train, *others = (compression[name]["units_per_motif"] for name in ("train", "dev") if name in compression)
    if others and others[0] and train > LEARNT_BY_HEART * others[0]:
        logger.warning(
            "motifs hold %.2f units in train, but %.2f in dev: many are memorised and occur nowhere else; "
            "lower --vocab_size, or give more recordings",
            train,
            others[0],
        )


def summary_table(analysis: dict) -> Table:
    """The most frequent motifs; the caption says how much shorter they make each split."""
    caption = "\n".join(
        f"{name}: {row['units']} units -> {row['motifs']} motifs, {row['units_per_motif']} units per motif "
        f"({row['units_per_motif_shuffled']} in random order)"
        for name, row in analysis["compression"].items()
    )
    title = f"The most frequent of {analysis['num_motifs']} motifs, counted in {analysis['counted_in']}"
    table = Table(title=title, caption=caption)
    for name in ("motif", "units", "count", "segments", "seconds"):
        table.add_column(name, justify="left" if name in ("motif", "units") else "right")
    for row in analysis["top_motifs"]:
        table.add_row(
            row["name"],
            " ".join(map(str, row["units"])),
            str(row["count"]),
            str(row["segments"]),
            f"{row['seconds']['mean']:.2f}" if row["seconds"] else "",
        )
    return table


if __name__ == "__main__":
    run_recipe(main)
