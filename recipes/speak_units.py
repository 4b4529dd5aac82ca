"""Speak with a unit vocoder: repeat a recording from its units alone, or speak given units.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/speak_units.py \\
    --audio clip.wav --units_model runs/units/units/model --vocoder_model runs/units/vocoder/model \\
    --output_wav spoken.wav

Units from a language model, or from another recording, are given as numbers: --units 3 3 3 17 17 4.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints import load_model
from hf_components.runtime import (
    LogArguments,
    UserError,
    flag,
    join_processes,
    parse_arguments,
    require_apart,
    run_recipe,
)
from hf_components.speech import decode, encode_wav
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units import check_same_units
from hf_components.units.resynthesis import pitches_of, speak, voices_of

logger = logging.getLogger(__name__)


@dataclass
class Arguments(LogArguments):
    vocoder_model: str = flag("checkpoint of train_unit_vocoder: its folder `model`, or Hub id", aliases=["--vocoder"])
    output_wav: str = flag("file to write")
    audio: str | None = flag("recording whose units are spoken", default=None)
    units_model: str | None = flag(
        "checkpoint of learn_units for --audio: folder `model`, or Hub id", default=None, needs="audio"
    )
    units: list[int] | None = flag("units to speak instead of a recording, one per 20 ms", default=None, min=0)
    speaker: str | None = flag("name of the voice, for a vocoder with several", default=None)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if (args.audio is None) == (args.units is None):
        raise UserError(
            "give either --audio or --units to speak, got " + ("neither" if args.audio is None else "both")
        )
    if (args.audio is None) != (args.units_model is None):
        raise UserError("--audio and --units_model, which finds its units, go together; give both or only --units")
    if args.audio is not None:
        require_apart(args.output_wav, [args.audio], flag="--output_wav")
    state = join_processes()
    vocoder = load_model(UnitHifiGanModel, args.vocoder_model)
    voice = chosen_voice(args, vocoder.config.speakers)
    if vocoder.config.use_f0 and args.audio is None:
        raise UserError(
            f"{args.vocoder_model} needs pitch as well as units (it was trained with --use_f0), and takes the "
            "pitch from a recording: give --audio and --units_model, or take another --vocoder_model"
        )
    waveform = None if args.audio is None else decode(args.audio)
    units = args.units if waveform is None else units_of_recording(args, waveform, vocoder)
    if not units or not 0 <= min(units) <= max(units) < vocoder.config.num_units:
        raise UserError(
            f"--units must be numbers from 0 to {vocoder.config.num_units - 1}, one at least, got "
            f"{f'{min(units)} to {max(units)}' if units else 'none'}"
        )
    (spoken,) = speak(vocoder, [units], voices_of(vocoder, [voice]), pitches_of(vocoder, [waveform], [units]))
    rate = vocoder.config.sampling_rate
    output = Path(args.output_wav)
    if state.is_main_process:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(encode_wav(spoken, rate))
        except OSError as error:
            raise UserError(f"cannot write --output_wav {output}: {error.strerror}; choose another") from error
    logger.info("%s: %.2f s spoken from %d units", output, len(spoken) / rate, len(units))
    return {"units": units, "seconds": len(spoken) / rate}


def chosen_voice(args: Arguments, voices: list[str]) -> str | None:
    """The speaker whose voice is used; None for a vocoder without names."""
    if args.speaker is None and len(voices) > 1:
        raise UserError(f"{args.vocoder_model} has several voices; choose one by --speaker: {', '.join(voices)}")
    if args.speaker is not None and not voices:
        raise UserError(
            f"{args.vocoder_model} was trained without --speaker_embedding and has one voice without a name; "
            f"leave out --speaker {args.speaker}"
        )
    return voices[0] if args.speaker is None and voices else args.speaker


def units_of_recording(args: Arguments, waveform: np.ndarray, vocoder: UnitHifiGanModel) -> list[int]:
    model = load_model(AcousticUnitsModel, args.units_model)
    check_same_units(model.identity(), args.units_model, vocoder.config.units or {}, args.vocoder_model)
    try:
        return model.encode(waveform).units.tolist()
    except ValueError as error:
        raise UserError(f"{args.audio} has no units: {error}") from error


if __name__ == "__main__":
    run_recipe(main)
