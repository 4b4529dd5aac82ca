"""Export a Whisper, an expert of a MoE-Whisper or a voice to CTranslate2, for faster-whisper, and check the export.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/export_ctranslate2.py --config recipes/configs/export_ctranslate2/default.yaml \\
    --model runs/moe/joint/model --expert 0 --corpus data/prepared --output_dir runs/moe/export

Writes the export to <output_dir>/model. recipes/merge_moe_whisper.py merges several experts into one Whisper.
With --audio_context dynamic clips are heard at their own length: recipes/transcribe.py --engine ctranslate2 runs that.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState

from hf_components.asr import texts_of_ctranslate2
from hf_components.checkpoints import export_whisper
from hf_components.moe import ExportArguments, check_export, load_to_export
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import flag, parse_arguments, run_as_stage, run_recipe
from hf_components.whisper import DynamicContextWhisper

logger = logging.getLogger(__name__)

LEAST_UNTRAINED = 600  # mel frames; see "Short context in CTranslate2" in docs/results.md


@dataclass
class Arguments(ExportArguments):
    quantization: Literal[
        "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"
    ] = flag("type of the stored weights; faster-whisper converts it to its compute_type", default="float16")
    audio_context: Literal["full", "dynamic"] = flag(
        "full: 30 s, for faster-whisper; dynamic: as long as the clip, for transcribe --engine ctranslate2",
        default="full",
    )
    min_audio_context: int | None = flag(
        "shortest dynamic context in mel frames of 10 ms; default: the one saved with the model, else 1000",
        default=None,
        min=2,
        max=3000,
        needs={"audio_context": "dynamic"},
    )


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, inputs=[args.model, args.voice, args.corpus])
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    model, processor = load_to_export(args)
    context = set_context(args, model)
    if PartialState().is_main_process:
        export_whisper(model, processor, folder / "model", args.quantization, **context)

    def exported(corpus: datasets.Dataset) -> list[str]:
        return texts_of_ctranslate2(folder / "model", processor, corpus, args.language, args.max_new_tokens)

    check = check_export(args, model, processor, {"check": exported})
    return {"quantization": args.quantization, **context, **check}


def set_context(args: Arguments, model: DynamicContextWhisper) -> dict:
    """Give the model the audio context of the export; it may warn of one that the model did not learn."""
    trained_short = model.audio_context == "dynamic"
    model.set_audio_context(args.audio_context, args.min_audio_context or model.min_audio_context)
    if args.audio_context == "dynamic" and not trained_short and model.min_audio_context < LEAST_UNTRAINED:
        text = "%s was not trained on short audio, and makes more errors below --min_audio_context %d; got %d"
        logger.warning(text, args.model, LEAST_UNTRAINED, model.min_audio_context)
    return {"audio_context": model.audio_context, "min_audio_context": model.min_audio_context}


if __name__ == "__main__":
    run_recipe(main)
