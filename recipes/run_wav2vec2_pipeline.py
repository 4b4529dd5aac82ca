"""The whole of wav2vec2 on corrected transcripts: recordings, gold, LoRA, error rates before and after, card.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_wav2vec2_pipeline.py --config recipes/configs/run_wav2vec2_pipeline/default.yaml \\
    --data data/finetuning_audio --model facebook/wav2vec2-base-960h --output_dir runs/wav2vec2
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that the steps are found as recipes.<step>

from accelerate import PartialState

from hf_components.checkpoints import base_model_id
from hf_components.correction import CorrectionArguments
from hf_components.correction.finetuning import GoldArguments, release_wav2vec2
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    NothingToTrainOnError,
    PipelineArguments,
    all_flags,
    finish_pipeline,
    parse_arguments,
    passed_on_arguments,
    run_recipe,
    same_names,
    stage_options,
    stage_runner,
)
from hf_components.training import AugmentationArguments, CtcLoraArguments
from recipes import finetune_wav2vec2_lora

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).parent / "configs"

TRAIN_ON = ("errors", "agreed", "all")
FOLDERS = dict.fromkeys(("finetuned", "llm", *TRAIN_ON), finetune_wav2vec2_lora)
STAGES = {"finetune_wav2vec2_lora": finetune_wav2vec2_lora}
PASSED_ON = {
    finetune_wav2vec2_lora: {
        **same_names(
            "truth",
            "no_lora",
            "num_train_epochs",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "batch_seconds",
            "num_bootstrap",
            "fp16",
            "no_fp16",
            "bf16",
        ),
        **all_flags(GoldArguments, without=("gold", "train_on")),
        **{
            flag: flag
            for kind in (CorrectionArguments, CtcLoraArguments, AugmentationArguments)
            for flag in all_flags(kind)
        },
    }
}


@dataclass
class Arguments(PipelineArguments):
    data: str = field(metadata={"help": "folder of recordings, in clean/ and noisy/ or to be split in half by name"})
    model: str = field(
        default="models/wav2vec2-demo", metadata={"help": "wav2vec2, HuBERT or WavLM: folder or Hub id"}
    )
    gold: Literal["llm", "manifest", "stt"] = field(
        default="llm",
        metadata={
            "help": "what is trained on and judged by: an LLM's corrections, the texts of --truth, the "
            "recogniser's own text"
        },
    )
    llm_figure: bool = field(
        default=False,
        metadata={
            "help": "with another gold, fine-tune on an LLM's corrections of the same recordings too, "
            "for a figure of its own"
        },
    )
    train_on: Literal["errors", "agreed", "all"] = field(
        default="errors",
        metadata={"help": "recordings to train on: where recogniser and gold differ, where they agree, all"},
    )
    compare_train_on: bool = field(
        default=False,
        metadata={"help": "fine-tune on the other choices too, for as many epochs, and report which wins"},
    )


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    args, publishing, passed_on = parse_arguments(ARGUMENTS, argv, __doc__)
    out = Path(args.output_dir)
    quick = STAGES.values() if args.mode == "quick" else ()
    run = stage_runner(
        CONFIGS,
        quick,
        out,
        passed_on,
        PASSED_ON,
        stage_options(args.stage_options, STAGES | FOLDERS),
        force_restart=not args.resume,
        log_file=args.log_file,
        seed=args.seed,
        plot=not args.no_plot,
        audio_dir=args.data,
        model=args.model,
        dataloader_num_workers=args.num_workers,
    )
    finetuned = run(
        finetune_wav2vec2_lora,
        "finetuned",
        gold=args.gold,
        train_on=args.train_on,
        merge=not passed_on.no_lora,
        model_license=publishing.model_license,
    )
    llm, compared = None, {}
    if args.llm_figure and args.gold != "llm":
        llm = run(finetune_wav2vec2_lora, "llm", gold="llm", train_on=args.train_on)
    if args.compare_train_on:
        for name in TRAIN_ON:
            try:
                compared[name] = (
                    finetuned
                    if name == args.train_on
                    else run(finetune_wav2vec2_lora, name, gold=args.gold, train_on=name, prepared=out / "finetuned")
                )
            except NothingToTrainOnError as error:
                logger.warning("--train_on %s is left out of the comparison: %s", name, error)
        PartialState().print(compare(compared))

    results = {
        "mode": args.mode,
        "seed": args.seed,
        "base_model": base_model_id(args.model),
        "evaluation": finetuned,
        "llm": llm,
        "compared": compared,
    }
    results = finish_pipeline(
        out,
        results,
        release_wav2vec2,
        config=(args, passed_on),
        resume=args.resume,
        inputs=[out / "finetuned", *([out / "llm"] if llm else [])],
    )
    push(publishing, out / "model")
    return results


def compare(compared: dict[str, dict]) -> str:
    """WER after training on each choice of recordings, and which is the lowest; against the truth where it is
    known."""
    rate = "wer" if next(iter(compared.values()))["baseline"]["wer_truth"] is None else "wer_truth"
    lines = [
        f"  {name:8}{result['training']['recordings']:5} recordings   {rate} {result['finetuned'][rate]:.4f}   "
        f"length by gold {result['finetuned']['length_ratio']:.2f}"
        for name, result in compared.items()
    ]
    best = min(compared, key=lambda name: compared[name]["finetuned"][rate])
    return "\n".join(["Trained on:", *lines, f"lowest: {best}"])


if __name__ == "__main__":
    run_recipe(main)
