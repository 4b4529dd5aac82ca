"""Read units and motifs back that were corrected in Praat or ELAN.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/import_annotations.py \\
    --annotations runs/units/annotations --units_dir runs/units/units --output_dir runs/units/corrected

--annotations is the output folder of export_annotations, with corrections. Writes the files of learn_units with the
corrected units, and motifs.jsonl with every interval of the tier motifs, to --output_dir. Give the folder to
learn_motifs, train_unit_vocoder or find_motifs. Recordings without an annotation keep their units.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from dataset_scripts.segmented_audio import recording_names
from hf_components.reporting import show
from hf_components.runtime import (
    Progress,
    RecipeArguments,
    UserError,
    file_digest,
    flag,
    parse_arguments,
    place_for,
    run_recipe,
    run_stage,
    write_json_lines,
)
from hf_components.units import read_units, units_schema
from hf_components.units.learning import join_units
from hf_components.units.motifs import corrected, read_tiers

FORMATS = ("TextGrid", "eaf")


@dataclass
class Arguments(RecipeArguments):
    annotations: str = flag("corrected output folder of export_annotations")
    units_dir: str = flag("units that were exported: output folder of learn_units or encode_units")
    format: str = flag("which of the two files of a recording was corrected", default=FORMATS[0], choices=FORMATS)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    files = files_of(args)
    # The record of the folder is of the time before the corrections. So the files count one by one.
    corrections = {source: file_digest(file) for source, file in files.items() if file.exists()}
    counts = run_stage(
        args.output_dir,
        lambda folder: produce(args, files, folder),
        config=(args, {"corrections": corrections}),
        inputs=[args.units_dir],
        resume=args.resume,
        alone=True,
    )
    show(
        f"{counts['changed_units']} of {counts['frames']} frames have another unit; {counts['recordings']} annotated "
        f"recordings with {counts['motifs']} motifs: {args.output_dir}"
    )
    return counts


def files_of(args: Arguments) -> dict[str, Path]:
    """The file of each recording, by `source_file`, as export_annotations names it; it need not exist."""
    sources = sorted(set(read_units(args.units_dir).rows["source_file"].to_pylist()))
    places = {source: place_for(source) for source in sources}
    names = recording_names(list(places.values()))
    return {source: Path(args.annotations) / f"{names[place]}.{args.format}" for source, place in places.items()}


def produce(args: Arguments, files: dict[str, Path], folder: Path) -> dict:
    table = read_units(args.units_dir)
    rows = table.rows.to_pylist()
    tiers = {source: read_tiers(file) for source, file in Progress(files.items(), desc="reading") if file.exists()}
    if not tiers:
        raise UserError(
            f"{args.annotations} has no .{args.format} of the recordings of {args.units_dir}; give the folder that "
            "export_annotations wrote"
        )
    num_units = table.identity["num_units"]
    found = [
        corrected(row, tiers[row["source_file"]], num_units, files[row["source_file"]])
        if row["source_file"] in tiers
        else row
        for row in rows
    ]
    join_units([pyarrow.Table.from_pylist(found, units_schema(table.identity))], folder)
    shutil.copytree(Path(args.units_dir) / "model", folder / "model", dirs_exist_ok=True)
    motifs = (
        {"source_file": source, "start": motif.start, "end": motif.end, "motif": motif.label}
        for source, of_recording in tiers.items()
        for motif in of_recording["motifs"]
    )
    write_json_lines(folder / "motifs.jsonl", motifs)
    pairs = [
        pair for old, new in zip(rows, found, strict=True) for pair in zip(old["units"], new["units"], strict=True)
    ]
    return {
        "recordings": len(tiers),
        "segments": len(rows),
        "frames": len(pairs),
        "changed_units": sum(old != new for old, new in pairs),
        "motifs": sum(len(of_recording["motifs"]) for of_recording in tiers.values()),
    }


if __name__ == "__main__":
    run_recipe(main)
