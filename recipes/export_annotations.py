"""Export segments, units and motifs as tiers of each recording, for Praat (TextGrid) and ELAN (.eaf).

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/export_annotations.py --config recipes/configs/export_annotations/default.yaml \\
    --units_dir runs/units/units --motifs_dir runs/units/motifs --recordings_dir my_recordings \\
    --output_dir runs/units/annotations
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from dataset_scripts.segmented_audio import recording_names
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage
from hf_components.speech import read_duration
from hf_components.units import check_same_units, read_units
from hf_components.units.motifs import Motifs, find_occurrences, tiers_of_recordings, write_eaf, write_textgrid

ROUNDING = 0.001  # s; of the recording's length when it is resampled, and of a header's


@dataclass
class Arguments:
    units_dir: str = field(metadata={"help": "output folder of learn_units"})
    motifs_dir: str = field(metadata={"help": "output folder of learn_motifs"})
    output_dir: str = field(metadata={"help": "folder of a .TextGrid and an .eaf per recording"})
    recordings_dir: str | None = field(
        default=None,
        metadata={
            "help": "folder of the recordings that were segmented: the .eaf link to them and the "
            "TextGrids are as long as they "
            "are; without it no recording is linked and a TextGrid ends with the last segment"
        },
    )
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [path for path in (args.units_dir, args.motifs_dir, args.recordings_dir) if path]
    counts = run_stage(
        args.output_dir,
        lambda folder: produce(args, folder),
        config=args,
        inputs=inputs,
        resume=args.resume,
        alone=True,
    )
    if PartialState().is_main_process:
        print(
            f"{counts['segments']} segments, {counts['units']} units and {counts['motifs']} motifs of "
            f"{counts['recordings']} recordings: {args.output_dir}"
        )
    return counts


def produce(args: Arguments, folder: Path) -> dict:
    table, motifs = read_units(args.units_dir), Motifs.from_pretrained(args.motifs_dir)
    check_same_units(motifs.identity, args.motifs_dir, table.identity, args.units_dir)
    recordings = tiers_of_recordings(table.rows, motifs, find_occurrences(motifs, table.rows))
    names = recording_names(list(recordings))
    for source, tiers in tqdm(recordings.items(), desc="recordings", unit=" recordings"):
        recording = Path(args.recordings_dir) / source if args.recordings_dir else None
        end = tiers["segments"][-1].end
        duration = read_duration(recording) if recording else end
        if end > duration + ROUNDING:
            raise UserError(
                f"{recording} ends at {duration:.2f} s, but its last segment at {end:.2f} s: it is not what was "
                "segmented; check --recordings_dir, or segment it again"
            )
        (folder / names[source]).parent.mkdir(parents=True, exist_ok=True)
        write_textgrid(folder / f"{names[source]}.TextGrid", tiers, max(duration, end))
        write_eaf(folder / f"{names[source]}.eaf", tiers, table.identity, recording)
    return {
        "recordings": len(recordings),
        **{name: sum(len(tiers[name]) for tiers in recordings.values()) for name in ("segments", "units", "motifs")},
    }


if __name__ == "__main__":
    run_recipe(main)
