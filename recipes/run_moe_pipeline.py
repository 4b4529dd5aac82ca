"""Run the pipeline of MoE-Whisper: corpus, embeddings, clusters, experts, router, joint training, benchmark, card.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_moe_pipeline.py --config recipes/configs/run_moe_pipeline/default.yaml \\
    --data data/my_speakers --model openai/whisper-small --output_dir runs/moe
"""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import SPEAKERS, must_prepare
from hf_components.moe import (
    CANDIDATES,
    RIVAL,
    MoePipelineArguments,
    RoutingArguments,
    at_most,
    other_embeddings,
    release_model,
    require_speaker_splits,
    results_of,
    systems_of,
)
from hf_components.moe.clustering import ClusteringArguments
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import Pipeline, Step, all_flags, passed_on_arguments, run_recipe, same_names
from hf_components.speech import SELECTION
from recipes import (
    assemble_moe_whisper,
    average_checkpoints,
    benchmark_asr,
    cluster_embeddings,
    extract_embeddings,
    finetune_whisper,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    reassign_speakers,
    train_moe_whisper,
)

LATER = 1000  # added to the seed of the data, so that a later training sees other batches
CHOOSING = "choosing_"  # beginning of the folders of the trainings that only choose
TRAINED = {  # system of the benchmark: where its checkpoint lies
    "soup": "soup/model",
    "single_lora": "single_lora",
    "single_lora_wide": "single_lora_wide",
    "full": "full/model",
    "merge": "merge",
    "choose": "choose/model",
    "moe": "joint/model",
}
TRAINING = same_names(
    "gradient_accumulation_steps",
    "fp16",
    "no_fp16",
    "bf16",
    "save_every_n_epochs",
    "eval_every_n_epochs",
    "unreadable_rows",
)
PASSED_ON = {
    extract_embeddings: same_names("unreadable_rows"),
    reassign_speakers: same_names("unreadable_rows", "target_entropy"),
    cluster_embeddings: {**all_flags(ClusteringArguments, without=("seed",)), **same_names("plot_method")},
    pretrain_router: {"gating_batch_size": "batch_size"},
    pretrain_experts: {"expert_batch_size": "per_device_train_batch_size", **TRAINING},
    train_moe_whisper: {
        "asr_batch_size": "per_device_train_batch_size",
        **TRAINING,
        **all_flags(RoutingArguments),
        **same_names("mixture", "beta", "rebase_output_dir"),
    },
    average_checkpoints: {"benchmark_batch_size": "batch_size"},
    finetune_whisper: {"asr_batch_size": "per_device_train_batch_size", **TRAINING},
    benchmark_asr: {
        f"benchmark_{flag}": flag
        for flag in ("split", "max_samples", "batch_size", "seed", "models", "combine", "beta", "num_beams")
    }
    | {"benchmark_top_k": "experts_per_utterance", "benchmark_mixture": "moe_mixture"},
}


ARGUMENTS = (MoePipelineArguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    if pipeline.args.dry_run:
        return {"steps": list(steps)}
    release = functools.partial(release_model, base=pipeline.args.model)
    inputs = [steps[name] for name in ("joint", "selection", "benchmark") if name in steps]
    results = pipeline.finish(results_of(pipeline, steps, TRAINED), release, inputs=inputs)
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    systems = systems_of(args, pipeline.passed_on)

    # 1 Corpus
    corpus = args.data
    if must_prepare(args.data, SPEAKERS):
        corpus = pipeline.run(
            prepare_corpus,
            "corpus",
            size="default",  # all data also in quick mode
            builder="speaker_json",
            data_dir=args.data,
            max_samples=args.max_samples,
        )
    pipeline.check(require_speaker_splits, args.data, str(corpus), pipeline.passed_on.benchmark_split or "dev")
    pipeline.everywhere(corpus=corpus, model=args.model, language=args.language)

    # To choose what is released, all that may be is trained without some speakers first, and compared on them
    if args.selection_share:
        releasable = [name for name in systems if name in CANDIDATES]
        train(pipeline, releasable, choosing=True)
        compare(pipeline, releasable, choosing=True)

    train(pipeline, systems, choosing=False)  # 2 to 8
    compare(pipeline, systems, choosing=False)  # 9


def train(pipeline: Pipeline, systems: list[str], *, choosing: bool) -> None:
    """Train systems; `choosing`: without the speakers who choose, into folders that begin with `CHOOSING`."""
    args = pipeline.args
    prefix = CHOOSING if choosing else ""

    def run(recipe: ModuleType, folder: str, **flags: Any) -> Step:
        return pipeline.run(recipe, prefix + folder, **flags)

    pipeline.everywhere(data_config_override=args.share(choosing=choosing), router_dir=None)

    # 2 Embeddings for the router
    embeddings = run(extract_embeddings, "embeddings", language=None)  # gradients alone need one
    pipeline.everywhere(router_layer=embeddings["layer"])

    # 3 LoRAs for all, trained apart: the first is where the single LoRA starts, their merge is the shared expert
    runs = train_loras(args, run, args.shared_runs if args.epochs.shared else 0)
    first = shared = runs[0] if runs else None
    sizes = {}
    if len(runs) > 1:
        shared = run(average_checkpoints, "shared_merge", candidates=runs, method="lora_products", max_samples=0)
        sizes = {name: first.read("config.json")[name] * len(runs) for name in ("lora_rank", "lora_alpha")}

    # 4 Clusters of utterances, one per expert: of these embeddings, of those of another model, or of gradients
    others = other_embeddings(args, shared, pipeline.passed_on.expert_batch_size)
    clustered = run(extract_embeddings, **others) if others else embeddings
    clusters = run(cluster_embeddings, "clusters", embedding_dir=clustered)

    # 5 Experts: what each cluster adds to the shared expert. Later trainings see other batches.
    freeze = bool(shared) and clusters["num_experts"] > 1 and args.freeze_shared_expert
    over_shared = {
        "freeze_shared_expert": freeze,
        "num_train_epochs": args.epochs.experts,
        "lora_model": shared,
        "learning_rate": args.expert_rate,
        **sizes,
        "data_seed": args.seed + LATER,
    }
    if args.expert_source == "error":  # speakers move to the expert with the lowest loss
        trial = run(pretrain_experts, "trial_experts", labels_dir=clusters, **over_shared)
        clusters = run(reassign_speakers, "reassigned", experts_dir=trial, labels_dir=clusters)
    experts = run(pretrain_experts, "experts", labels_dir=clusters, **over_shared)

    # 6 Router: learns to find the cluster
    router = run(pretrain_router, "router", embedding_dir=embeddings, labels_dir=clusters)
    pipeline.everywhere(router_dir=router, router_layer=None)

    # 7 Router and experts together: soft, top-k, hard
    joint = run(
        train_moe_whisper,
        "joint",
        experts_dir=experts,
        experts_per_utterance=at_most(args.experts_per_utterance, clusters["num_experts"]),
        freeze_shared_expert=freeze,
        num_train_epochs=args.epochs.joint,
        data_seed=args.seed + 2 * LATER,
    )

    # 8 Systems that the mixture is compared with
    train_rivals(args, run, systems, loras=runs, joint=joint, experts=experts, number=clusters["num_experts"])


def train_rivals(
    args: MoePipelineArguments,
    run: Callable[..., Step],
    systems: list[str],
    *,
    loras: list[Step],
    joint: Step,
    experts: Step,
    number: Any,
) -> None:
    """The systems beside the mixture, each trained as long: of `loras` for all, the `number` `experts` and `joint`."""
    if "soup" in systems:
        run(average_checkpoints, "soup", candidates=[joint], method="uniform")
    if "single_lora" in systems:
        run(
            pretrain_experts,
            "single_lora",
            num_train_epochs=args.total_epochs - args.epochs.shared,
            lora_model=loras[0] if loras else None,
            learning_rate=args.further_rate,
            data_seed=args.seed + LATER,
        )
    if "merge" in systems:
        loras = loras + train_loras(args, run, args.merged_runs, start=args.shared_runs)
        run(average_checkpoints, "merge", candidates=loras, method="lora_products", max_samples=0)
    if "choose" in systems:
        run(assemble_moe_whisper, "choose", loras=loras)
    if "single_lora_wide" in systems:
        config = experts.read("config.json")
        sizes = {name: config[name] * number for name in ("lora_rank", "lora_alpha")}
        run(pretrain_experts, "single_lora_wide", num_train_epochs=args.total_epochs, **sizes)
    if "full" in systems:
        run(finetune_whisper, "full", num_train_epochs=args.total_epochs, **RIVAL[args.mode])


def train_loras(args: MoePipelineArguments, run: Callable[..., Step], number: int, start: int = 0) -> list[Step]:
    """Independent LoRAs for all, from `start` on: other seeds, so other orders, and other speeds."""
    own = {"seed": args.seed, "num_train_epochs": args.epochs.shared}
    return [
        run(pretrain_experts, f"shared_{i}", **own | {"seed": args.seed + 100 * i, "speed_factors": [0.9, 1.0, 1.1]})
        if i
        else run(pretrain_experts, "shared", **own)
        for i in range(start, number)
    ]


def compare(pipeline: Pipeline, systems: list[str], *, choosing: bool) -> None:
    """Benchmark systems: all on the split that judges, or `choosing`: on the speakers who choose the release."""
    args = pipeline.args
    prefix = CHOOSING if choosing else ""
    experts = pipeline.steps[f"{prefix}clusters"]["num_experts"]
    wanted = 1 if choosing else pipeline.passed_on.benchmark_top_k or args.experts_per_utterance
    pipeline.run(
        benchmark_asr,
        SELECTION if choosing else "benchmark",
        keeps=("experts_per_utterance", *(("split", "models", "max_samples", "combine") if choosing else ())),
        models=",".join(systems),
        base_model=args.model,
        split=SELECTION if choosing else None,
        experts_per_utterance=at_most(wanted, experts),
        percent=args.data_percent if choosing else args.data_percent * args.benchmark_percent / 100,
        moe_mixture=pipeline.passed_on.mixture,
        data_config_override=json.dumps(args.division(choosing=choosing)),
        **{f"{name}_model": pipeline.out / f"{prefix}{TRAINED[name]}" for name in systems if name in TRAINED},
    )


if __name__ == "__main__":
    run_recipe(main)
