"""The figures of a run of `run_moe_pipeline`: what was trained, what is released and why."""

from collections.abc import Iterable, Mapping

from hf_components.checkpoints import base_model_id
from hf_components.moe.shipping import choose_shipped, read_candidates
from hf_components.runtime import Pipeline, Step
from hf_components.speech import summarise_corpus

STAGES = ("router", "shared", "experts", "joint")


def results_of(pipeline: Pipeline, steps: Mapping[str, Step], systems: Iterable[str]) -> dict:
    """Values for the card and `results.json`; `systems` are those that a run may train."""
    args = pipeline.args
    trained = {
        name: steps[name].metrics if name in steps else None
        for name in (*STAGES, *(system for system in systems if system in steps))
    }
    return {
        "language": args.language,
        "base_model": base_model_id(args.model),
        **choose_shipped(
            **read_candidates(steps["joint"], steps.get("selection")),
            language=args.language,
            ship=args.ship,
            seed=args.seed,
        ),
        "benchmark": steps["benchmark"].metrics,
        "clusters": steps["reassigned" if "reassigned" in steps else "clusters"].metrics,
        "corpus": summarise_corpus(str(steps.get("corpus", args.data)), args.share(choosing=False)),
        "training": trained,
        "selected_on": sorted({row["selected_on"] for row in trained.values() if row and row.get("selected_on")}),
    }
