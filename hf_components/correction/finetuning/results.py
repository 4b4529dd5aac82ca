"""The content of `evaluation_results.json`."""

from collections.abc import Sequence
from pathlib import Path

from hf_components.checkpoints import base_model_id
from hf_components.correction.finetuning.arguments import FinetuningFlags
from hf_components.correction.finetuning.improvement import improve, measure
from hf_components.correction.finetuning.rounds import Round, Rounds, best_of
from hf_components.correction.finetuning.samples import estimates
from hf_components.runtime import environment


def results_of(flags: FinetuningFlags, played: Rounds, rounds: Sequence[Round], rejected: dict[str, int]) -> dict:
    """The figures of all rounds, and those of the best one in detail.

    Args:
        played: what the rounds share, after `play`.
        rejected: numbers of recordings that could not be read, by reason.
    """
    args = flags.args
    gold_args = flags.gold
    seed = flags.training.seed
    kept = best_of(rounds)
    scored = [row for row in kept.samples if row.finetuned is not None]
    before = [row.heard for row in scored]
    after = [row.finetuned for row in scored]
    return {
        "base_model": base_model_id(args.model),
        "family": played.family,
        "method": "lora" if args.use_lora else "full",
        "train_on": gold_args.train_on,
        "evaluated_on": "training_recordings" if gold_args.evaluate_on_train else "held_out",
        "gold": {
            "source": gold_args.gold,
            "label": gold_args.label(flags.llm.llm_model),
            "nbest": gold_args.nbest,
            "corrections": kept.gold.corrections,
            "wer_truth": measure(kept.samples, kept.gold.texts)["wer_truth"],
            "recognisers": gold_args.recognisers,
            "left_out": played.left_out,
            **estimates(kept.samples, kept.gold),
        },
        "baseline": measure(scored, before),
        "finetuned": measure(scored, after),
        "release": kept.release,
        "rounds": [row.summary() for row in rounds],
        "improvement": improve(scored, before, after, num_bootstrap=args.num_bootstrap, seed=seed),
        "all_recordings": measure(kept.samples, played.heard),
        "rejected": rejected,
        "training": kept.figures,
        "division": {"eval_ratio": gold_args.eval_ratio, "split_seed": gold_args.split_seed},
        "bootstrap": {"resamples": args.num_bootstrap, "unit": "recording", "confidence": 0.95, "seed": seed},
        "corpus": {"name": Path(args.audio_dir).resolve().name, "hub_id": None, "revision": None},
        "environment": environment(),
        "license": flags.publishing.model_license,
    }
