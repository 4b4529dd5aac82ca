"""Export a Whisper, an expert of a MoE-Whisper or a voice to ggml, for whisper.cpp, and check the export.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/export_ggml.py --config recipes/configs/export_ggml/default.yaml \\
    --model runs/moe/model --corpus data/prepared --output_dir runs/moe/ggml

Writes <output_dir>/model/ggml-model-<quantization>.bin, which whisper.cpp and the apps that are built on it open:
`whisper-cli -m ggml-model-q8_0.bin -f clip.wav`. They hear a window of 30 s. For a short clip --audio-ctx shortens it:
50 times the seconds of the clip and of the silence after it. The check has both.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState

from hf_components.checkpoints import export_ggml, language_of, transcribe_ggml
from hf_components.moe import ExportArguments, check_export, load_to_export
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import flag, make_folder, parse_arguments, run_as_stage, run_recipe
from hf_components.speech import waveforms


@dataclass
class Arguments(ExportArguments):
    quantization: Literal["float16", "q8_0", "q5_0"] = flag(
        "type of the stored matrices: 16, 8 or 5 bits a weight", default="q8_0"
    )
    silence: float = flag(
        "seconds of silence that whisper.cpp sees after a clip in the check of --audio-ctx",
        default=7.0,
        min=0,
        max=30,
        needs="corpus",
    )


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, inputs=[args.model, args.voice, args.corpus])
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    model, processor = load_to_export(args)
    model.set_audio_context("full", model.min_audio_context)
    file = folder / "model" / f"ggml-model-{args.quantization}.bin"
    if PartialState().is_main_process:
        make_folder(file.parent)
        export_ggml(model, processor, file, args.quantization)

    def exported(silence: float | None, corpus: datasets.Dataset) -> list[str]:
        return transcribe_ggml(
            file,
            waveforms(corpus),
            vocab_size=model.config.vocab_size,
            max_new_tokens=args.max_new_tokens,
            language=language_of(model),
            silence=silence,
        )

    exports = {"check": partial(exported, None), "check_short": partial(exported, args.silence)}
    return {"quantization": args.quantization, **check_export(args, model, processor, exports)}


if __name__ == "__main__":
    run_recipe(main)
