"""Average trained weights (a model soup): checkpoints of one training, several models, or several LoRA adapters.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/average_checkpoints.py --config recipes/configs/average_checkpoints/default.yaml \\
    --candidates runs/children --corpus data/prepared --output_dir runs/soup

--candidates is the output folder of one train_moe_whisper or finetune_whisper, whose checkpoints are averaged. Or it
is two or more folders of models, of PEFT adapters of one model, or of independent trainings of one LoRA. Writes the
model to <output_dir>/model, and the average of adapters to <output_dir>/adapter.

Methods: uniform averages all. greedy adds a candidate, best first, if the WER does not grow. lora_products averages
LoRAs by their products BA into one whose rank is the sum of theirs, or --rank.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_components.checkpoints import Candidates, find_candidates
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    run_recipe,
    run_stage,
)
from hf_components.speech import language_flag, load_corpus, require_readable, sample_rows
from hf_components.training import Averages, load_recipient

logger = logging.getLogger(__name__)


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    candidates: list[str] = flag("output folder of one training, or two or more folders of models or adapters")
    corpus: str = flag("prepared corpus: folder or Hub id")
    model: str | None = flag(
        "model of the adapters; default: the one they name", default=None, aliases=["--base_model"]
    )
    language: str | None = language_flag()
    method: Literal["greedy", "uniform", "lora_products"] = flag(
        "which candidates are averaged, see above", default="greedy"
    )
    rank: int | None = flag(
        "rank of the averaged LoRA; default: the sum of all ranks, which is exact",
        default=None,
        min=1,
        needs={"method": "lora_products"},
    )
    last: int | None = flag("number of newest checkpoints to use; default: all", default=None, min=2)
    data_config_override: str | None = flag(
        "part of the corpus to use, and who is held out: JSON, see pretrain_experts", default=None
    )
    selection_split: str = flag("split to select and report on; greedy makes its WER optimistic", default="dev")
    max_samples: int = flag(
        "utterances drawn at random from that split; 0: average without scoring, not for greedy", default=200, min=0
    )
    batch_size: int = flag("utterances per batch and process", default=16, min=1)
    max_new_tokens: int = flag("longest transcript in tokens", default=225, min=1)


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    inputs = [*args.candidates, args.corpus, *([args.model] if args.model else [])]
    config = dataclasses.asdict(args)
    if len(args.candidates) == 1:  # a path in `inputs` is compared by its content: a run may be moved
        config["candidates"] = args.candidates[0]
    result = run_stage(
        args.output_dir, lambda folder: produce(args, folder), config=config, inputs=inputs, resume=args.resume
    )
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    candidates = find_candidates(args.candidates, args.last, args.model)
    check(args, candidates)
    corpus = None
    if args.max_samples:
        split = load_corpus(args.corpus, args.selection_split, args.data_config_override)
        corpus = sample_rows(split, args.max_samples, args.seed)
        require_readable(corpus, args.corpus, args.selection_split)
    averages = Averages(candidates, *load_recipient(candidates, args.language), args.rank, args.language)
    decoding = {"batch_size": args.batch_size, "max_new_tokens": args.max_new_tokens}
    if args.method == "greedy":
        members = averages.greedy(corpus, **decoding)
        logger.info("selected on the split %s: the WER of the soup is optimistic there", args.selection_split)
    else:
        members = averages.uniform(corpus, **decoding)
    averages.save(members, folder)
    names = averages.names
    result = {"method": args.method, "candidates": names, "chosen": [names[i] for i in members]}
    if corpus is None:
        return result
    return {
        **result,
        "split": args.selection_split,
        "utterances": len(corpus),
        "selected_on": args.selection_split if args.method == "greedy" else None,
        **averages.compare_with_last(members, corpus),
    }


def check(args: Arguments, candidates: Candidates) -> None:
    """Raise UserError for a method that these candidates or settings do not allow."""
    if args.method == "lora_products" and candidates.adapter is None:
        raise UserError(
            f"--method lora_products averages LoRAs, {args.candidates[0]} holds whole weights; take --method uniform"
        )
    if args.method == "greedy" and not args.max_samples:
        raise UserError("--method greedy needs utterances to score on, got --max_samples 0")


if __name__ == "__main__":
    run_recipe(main)
