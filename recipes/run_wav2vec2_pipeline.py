"""Run the pipeline of wav2vec2 on corrected transcripts: recordings, gold, LoRA, error rates before and after, card.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_wav2vec2_pipeline.py --config recipes/configs/run_wav2vec2_pipeline/default.yaml \\
    --data data/finetuning_audio --model facebook/wav2vec2-base-960h --output_dir runs/wav2vec2
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import RECORDINGS, require_layout
from hf_components.checkpoints import base_model_id
from hf_components.correction import CorrectionArguments
from hf_components.correction.finetuning import BASE, FINETUNED, GoldArguments, keep_unreleased, release_wav2vec2
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    NothingToTrainOnError,
    Pipeline,
    PipelineArguments,
    all_flags,
    flag,
    passed_on_arguments,
    run_recipe,
    same_names,
)
from hf_components.training import AugmentationArguments, LoraArguments
from recipes import finetune_wav2vec2_lora

logger = logging.getLogger(__name__)

TRAIN_ON = ("errors", "agreed", "all")
PASSED_ON = {
    finetune_wav2vec2_lora: {
        **same_names(
            "truth",
            "no_lora",
            "base_share",
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
        **all_flags(CorrectionArguments),
        **all_flags(LoraArguments),
        **all_flags(AugmentationArguments),
    }
}


@dataclass
class Arguments(PipelineArguments):
    data: str = flag("folder with clean/ and noisy/, or of recordings to split in half by name")
    model: str = flag(
        "recogniser to adapt, of any family that can be trained: folder or Hub id", default="models/wav2vec2-demo"
    )
    gold: Literal["llm", "manifest", "consensus", "best", "stt"] = flag(
        "texts to train on and to score by: an LLM's corrections, those of --truth, a vote of --recognisers, the best "
        "of vote, recognisers and LLM, or the recogniser's own",
        default="llm",
    )
    llm_figure: bool = flag(
        "with another gold: also fine-tune on an LLM's corrections, and report it",
        default=False,
        needs={"gold": ("manifest", "consensus", "best", "stt")},
    )
    train_on: Literal["errors", "agreed", "all"] = flag(
        "recordings to train on: where recogniser and gold differ, where they agree, all", default="errors"
    )
    release: Literal["better", "always"] = flag(
        "better: release the trained model if the truth, or --judges, say that it is surely better than its base, "
        "else the base; always: release it anyway",
        default="better",
    )
    compare_train_on: bool = flag("also fine-tune on the other choices, as long, and report the best", default=False)


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    args = pipeline.args
    if args.dry_run:
        return {"steps": list(steps)}
    verdict = steps["finetuned"].metrics["release"]
    compared = {}
    if args.compare_train_on:
        trained = {args.train_on: steps["finetuned"], **steps}
        compared = {name: trained[name].metrics for name in TRAIN_ON if name in trained}
        show(compare(compared))
    results = {
        "base_model": base_model_id(args.model),
        "base": args.model,
        "shipped": FINETUNED if args.release == "always" or verdict["released"] else BASE,
        "reason": verdict["reason"],
        "evaluation": steps["finetuned"].metrics,
        "llm": steps["llm"].metrics if "llm" in steps else None,
        "compared": compared,
    }
    inputs = [steps[name] for name in ("finetuned", "llm") if name in steps]
    results = pipeline.finish(results, release_wav2vec2, inputs=inputs)
    if results["shipped"] == BASE:
        keep_unreleased(pipeline.out, steps["finetuned"].folder, args.resume)
        show(f"released is the base, unchanged, since {results['reason']}; the trained model is in not_released/")
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    run = pipeline.run
    require_layout(args.data, RECORDINGS)
    pipeline.everywhere(audio_dir=args.data, model=args.model, gold=args.gold, train_on=args.train_on)

    # 1 Transcripts, their corrections, and training where they differ
    finetuned = run(
        finetune_wav2vec2_lora,
        "finetuned",
        merge=not pipeline.passed_on.no_lora,
        model_license=pipeline.publishing.model_license,
    )

    # 2 The same with an LLM's corrections, for a figure of its own
    if args.llm_figure and args.gold != "llm":
        run(finetune_wav2vec2_lora, "llm", gold="llm")

    # 3 The same with other choices of recordings to train on
    for name in TRAIN_ON if args.compare_train_on else ():
        if name != args.train_on:
            try:
                run(finetune_wav2vec2_lora, name, train_on=name, prepared=finetuned)
            except NothingToTrainOnError as error:
                logger.warning("--train_on %s is left out of the comparison: %s", name, error)


def compare(compared: dict[str, dict]) -> str:
    """Format the WER after each choice of recordings, and the lowest; against the truth where it is known."""
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
