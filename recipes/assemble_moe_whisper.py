"""Make a MoE-Whisper of LoRAs that were trained apart, each of them an expert. Nothing is trained.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/assemble_moe_whisper.py --config recipes/configs/assemble_moe_whisper/default.yaml \\
    --model openai/whisper-small --loras runs/moe/shared runs/moe/shared_1 --output_dir runs/moe/apart

The plain model is the mean of the LoRAs. By default all LoRAs are asked where it is not sure (--mixture choose).
Writes the mixture to <output_dir>/model, and each expert as a PEFT adapter to <output_dir>/experts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_components.checkpoints import base_model_id, load_whisper, lora_folder, save_processor
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    RecipeArguments,
    UserError,
    flag,
    parse_arguments,
    require_there,
    run_as_stage,
    run_recipe,
)
from hf_components.speech import language_flag
from hf_components.whisper import MoeWhisperForConditionalGeneration


@dataclass(kw_only=True)
class Arguments(RecipeArguments):
    loras: list[str] = flag("LoRAs of one base model: outputs of pretrain_experts without labels, or PEFT adapters")
    model: str = flag("base Whisper of the LoRAs: folder or Hub id", default="models/whisper-tiny.en")
    language: str | None = language_flag()
    mixture: Literal["choose", "merge"] = flag(
        "choose: the text of least risk by all LoRAs; merge: their mean", default="choose"
    )
    min_audio_context: int = flag("shortest audio context in mel frames of 10 ms", default=200, min=2, max=3000)


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, inputs=[args.model, *args.loras], alone=True)
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    if len(args.loras) < 2:
        raise UserError(f"--loras takes two LoRAs or more, got {', '.join(args.loras)}")
    for lora in args.loras:
        require_there(lora, "--loras takes folders of LoRAs")
    base, processor = load_whisper(args.model, args.language)
    try:
        model = MoeWhisperForConditionalGeneration.from_experts(
            base,
            [lora_folder(lora) for lora in args.loras],
            mixture=args.mixture,
            audio_context="dynamic",
            min_audio_context=args.min_audio_context,
            base_model_name_or_path=base_model_id(args.model),
        )
    except ValueError as error:
        raise UserError(f"the LoRAs do not make one mixture: {error}") from error
    model.save_pretrained(folder / "model")
    save_processor(processor, folder / "model")
    model.save_experts(folder / "experts")
    return {"experts": model.config.num_experts, "lora_rank": model.config.lora_rank, "mixture": args.mixture}


if __name__ == "__main__":
    run_recipe(main)
