"""Merge a MoE-Whisper into one plain Whisper: one expert, the experts' weighted mean, or a greedy soup of experts.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/merge_moe_whisper.py --config recipes/configs/merge_moe_whisper/default.yaml \\
    --model runs/moe/joint/model --corpus data/prepared --output_dir runs/moe/merged

Methods: average is the mean by --weights. expert is the one of --expert. soup adds an expert, best first, if the WER
does not grow. Writes the plain Whisper to <output_dir>/model.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState

from hf_components.checkpoints import load_moe_whisper, save_processor
from hf_components.moe import equal_weights, merge_experts, score_plain, soup_of_experts
from hf_components.moe.benchmark import corpus_gates, summary_tables
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
)
from hf_components.speech import load_corpus, require_readable, sample_rows

logger = logging.getLogger(__name__)


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    model: str = flag("MoE-Whisper checkpoint: folder or Hub id", aliases=["--moe_dir"])
    corpus: str = flag("prepared corpus: folder or Hub id")
    method: Literal["average", "expert", "soup"] = flag("how experts become one, see above", default="average")
    weights: str = flag(
        "for average: usage (mean gates on train), uniform, or a number per expert, such as 0.2,0.5,0.3",
        default="usage",
        needs={"method": "average"},
    )
    expert: int | None = flag("for expert: which one, counted from 0", default=None, min=0, needs={"method": "expert"})
    selection_split: str = flag(
        "for soup: split to select on; the WER is optimistic there", default="dev", needs={"method": "soup"}
    )
    split: str = flag("split to score", default="dev")
    max_samples: int = flag("utterances drawn at random from each of these splits", default=200, min=1)
    batch_size: int = flag("utterances per batch and process", default=16, min=1)
    max_new_tokens: int = flag("longest transcript in tokens", default=225, min=1)
    num_bootstrap: int = flag("number of bootstrap samples of speakers for each interval", default=1000, min=0)


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, inputs=[args.model, args.corpus])
    show(*summary_tables(result))
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    moe, processor = load_moe_whisper(args.model)
    corpus = sampled(args, args.split)
    weights, choice = choose_weights(args, moe, processor)
    plain = merge_experts(moe, weights)
    if PartialState().is_main_process:
        plain.save_pretrained(folder / "model")
        save_processor(processor, folder / "model")
    result = score_plain(
        {args.method: plain},
        moe,
        processor,
        corpus,
        split=args.split,
        batch_size=args.batch_size,
        max_new_tokens=args.max_new_tokens,
        num_bootstrap=args.num_bootstrap,
        seed=args.seed,
    )
    return {"method": args.method, "weights": weights, **choice, **result}


def sampled(args: Arguments, split: str) -> datasets.Dataset:
    sample = sample_rows(load_corpus(args.corpus, split), args.max_samples, args.seed)
    require_readable(sample, args.corpus, split)
    return sample


def choose_weights(args: Arguments, moe, processor) -> tuple[list[float], dict]:
    """Return the weights of the experts, and how a soup found them."""
    experts = moe.config.num_experts
    if args.method == "expert":
        if args.expert is None or not 0 <= args.expert < experts:
            raise UserError(f"--method expert needs --expert from 0 to {experts - 1}, got {args.expert}")
        return equal_weights([args.expert], experts), {}
    if args.expert is not None:
        raise UserError(f"--expert goes with --method expert, got --method {args.method}; leave one of them out")
    if args.method == "soup":
        if args.selection_split == args.split:
            logger.warning(
                "the soup is selected and scored on the split %s, where its WER is optimistic; score another one",
                args.split,
            )
        corpus = sampled(args, args.selection_split)
        soup = soup_of_experts(moe, processor, corpus, batch_size=args.batch_size, max_new_tokens=args.max_new_tokens)
        found = {"selected_on": args.selection_split, "expert_wer": soup.candidate_scores, "chosen": soup.members}
        return equal_weights(soup.members, experts), found
    if args.weights == "usage":
        return corpus_gates(moe, processor, sampled(args, "train"), args.batch_size).mean(0).tolist(), {}
    if args.weights == "uniform":
        return equal_weights(range(experts), experts), {}
    try:
        return [float(number) for number in args.weights.split(",")], {}
    except ValueError as error:
        raise UserError(
            f"--weights must be usage, uniform or one number per expert, such as 0.2,0.5,0.3; got {args.weights!r}"
        ) from error


if __name__ == "__main__":
    run_recipe(main)
