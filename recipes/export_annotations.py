"""Export segments, units and motifs as tiers of each recording, for Praat (TextGrid) and ELAN (.eaf).

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/export_annotations.py \\
    --units_dir runs/units/units --motifs_dir runs/units/motifs --recordings_dir my_recordings \\
    --output_dir runs/units/annotations

Writes a .TextGrid and an .eaf per recording to --output_dir. With --recordings_dir, the .eaf files link to the
recordings, and a TextGrid is as long as its recording. Without it, a TextGrid ends with the last segment.

Praat plays MP3 up to 66 ms late, since it keeps the encoder's padding, and cannot open Ogg or m4a. For a recording
that is not WAV, AIFF or FLAC, a 16 kHz WAV is written beside the TextGrid: open that one.
"""

from dataclasses import dataclass
from pathlib import Path

from dataset_scripts.segmented_audio import recording_names
from hf_components.reporting import show
from hf_components.runtime import (
    Progress,
    RecipeArguments,
    UserError,
    flag,
    leads_out,
    parse_arguments,
    place_for,
    run_as_stage,
    run_recipe,
)
from hf_components.speech import encode_wav_file, read_duration
from hf_components.units import check_same_units, read_units
from hf_components.units.motifs import (
    Decisions,
    Motifs,
    find_occurrences,
    tiers_of_recordings,
    write_eaf,
    write_textgrid,
)

SAME_IN_PRAAT = (".wav", ".aif", ".aiff", ".aifc", ".flac")
ROUNDING = 0.001  # seconds by which resampling or a header may change the length of a recording


@dataclass
class Arguments(RecipeArguments):
    units_dir: str = flag("output folder of learn_units")
    motifs_dir: str = flag("output folder of learn_motifs")
    recordings_dir: str | None = flag("folder of the segmented recordings; default: no links to them", default=None)
    decisions: str | None = flag(
        "decisions.json of a concordance: motifs get the names that were given, rejected ones are left out",
        default=None,
    )


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [args.units_dir, args.motifs_dir, args.recordings_dir, args.decisions]
    counts = run_as_stage(produce, args, inputs=inputs, alone=True)
    show(
        f"{counts['segments']} segments, {counts['units']} units and {counts['motifs']} motifs of "
        f"{counts['recordings']} recordings: {args.output_dir}"
    )
    return counts


def produce(args: Arguments, folder: Path) -> dict:
    table = read_units(args.units_dir)
    motifs = Motifs.from_pretrained(args.motifs_dir)
    check_same_units(motifs.identity, args.motifs_dir, table.identity, args.units_dir)
    decisions = Decisions.read(args.decisions, table.identity, args.units_dir) if args.decisions else Decisions()
    recordings = tiers_of_recordings(table.rows, motifs, find_occurrences(motifs, table.rows), decisions)
    places = {source: place_for(source) for source in recordings}  # the units may be somebody else's
    names = recording_names(list(places.values()))
    for source, tiers in Progress(recordings.items(), desc="recordings", unit=" recordings"):
        recording = find_recording(args.recordings_dir, source) if args.recordings_dir else None
        name = names[places[source]]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if recording and recording.suffix.lower() not in SAME_IN_PRAAT:
            recording = encode_wav_file(recording, folder / f"{name}.wav")
        end = tiers["segments"][-1].end
        duration = read_duration(recording) if recording else end
        if end > duration + ROUNDING:
            raise UserError(
                f"{source} ends at {duration:.2f} s, but its last segment at {end:.2f} s: it is not the "
                "recording that was segmented; check --recordings_dir, or segment it again"
            )
        write_textgrid(folder / f"{name}.TextGrid", tiers, max(duration, end))
        write_eaf(folder / f"{name}.eaf", tiers, table.identity, recording)
    return {
        "recordings": len(recordings),
        **{name: sum(len(tiers[name]) for tiers in recordings.values()) for name in ("segments", "units", "motifs")},
    }


def find_recording(folder: str, source: str) -> Path:
    """The recording in the folder. Raises UserError if its name, which the units give, leads out of the folder."""
    if leads_out(source):
        raise UserError(
            f"the units name a recording {source!r}, which is not in {folder}: its path is absolute or climbs by "
            "'..'; leave out --recordings_dir, or segment the recordings again"
        )
    return Path(folder) / source


if __name__ == "__main__":
    run_recipe(main)
