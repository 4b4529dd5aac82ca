"""Run the pipeline of MoE-Whisper: corpus, embeddings, clusters, router, experts, joint training, benchmark, card.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_moe_pipeline.py --config recipes/configs/run_moe_pipeline/default.yaml \\
    --data data/my_speakers --model openai/whisper-small --output_dir runs/moe
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from hf_components.checkpoints import base_model_id
from hf_components.moe import (
    RIVAL,
    MoePipelineArguments,
    RoutingArguments,
    at_most,
    choose_shipped,
    other_embeddings,
    release_model,
    require_speaker_splits,
    systems_of,
)
from hf_components.moe.clustering import ClusteringArguments
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    Pipeline,
    all_flags,
    passed_on_arguments,
    read_json_lines,
    read_record,
    run_recipe,
    same_names,
)
from hf_components.speech import SELECTION, summarise_corpus
from recipes import (
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

STAGES = ("router", "shared", "experts", "joint")
TRAINED = {  # system of the benchmark: where its checkpoint lies
    "soup": "soup/model",
    "single_lora": "single_lora",
    "single_lora_wide": "single_lora_wide",
    "full": "full/model",
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
    pipeline = Pipeline(Path(__file__).parent / "configs", ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    if pipeline.args.dry_run:
        return {"steps": list(steps)}
    release = functools.partial(release_model, base=pipeline.args.model)
    inputs = [steps[name] for name in ("joint", "selection", "benchmark") if name in steps]
    results = pipeline.finish(results_of(pipeline, steps), release, inputs=inputs)
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    passed_on = pipeline.passed_on
    run = pipeline.run
    epochs = args.epochs
    systems = systems_of(args, passed_on)

    # 1 Corpus
    corpus = args.data
    if args.is_speaker_folder:
        corpus = run(
            prepare_corpus,
            "corpus",
            size="default",  # all data also in quick mode
            builder="speaker_json",
            data_dir=args.data,
            max_samples=args.max_samples,
        )
    pipeline.check(require_speaker_splits, args.data, str(corpus), passed_on.benchmark_split or "dev")
    pipeline.everywhere(corpus=corpus, model=args.model, language=args.language, data_config_override=args.share)

    # 2 Embeddings for the router
    embeddings = run(extract_embeddings, "embeddings", language=None)

    # 3 A LoRA for all, to which each expert adds what its utterances need
    first, shared, sizes = take_shared_expert(pipeline, embeddings)

    # 4 Clusters of utterances, one per expert: of these embeddings, or of those of another model, or of gradients
    others = other_embeddings(args, shared, passed_on.expert_batch_size)
    clustered = run(extract_embeddings, **others) if others else embeddings
    clusters = run(cluster_embeddings, "clusters", embedding_dir=clustered)
    top_k = at_most(args.experts_per_utterance, clusters["num_experts"])

    # 5 Experts, and a router that finds them; by error, speakers move first. Later trainings see other batches.
    onward = {"data_seed": args.seed + 1000}
    freeze = bool(shared) and clusters["num_experts"] > 1 and args.freeze_shared_expert
    over_shared = {
        "freeze_shared_expert": freeze,
        "num_train_epochs": epochs.experts,
        "lora_model": shared,
        "learning_rate": args.expert_rate,
        **sizes,
        **onward,
    }
    if args.expert_source == "error":
        trial = run(
            pretrain_experts,
            "trial_experts",
            labels_dir=clusters,
            router_layer=embeddings["layer"],
            **over_shared,
        )
        clusters = run(reassign_speakers, "reassigned", experts_dir=trial, labels_dir=clusters)
    router = run(pretrain_router, "router", embedding_dir=embeddings, labels_dir=clusters)
    pipeline.everywhere(router_dir=router)
    experts = run(pretrain_experts, "experts", labels_dir=clusters, **over_shared)

    # 6 Router and experts together: soft, top-k, hard
    run(
        train_moe_whisper,
        "joint",
        experts_dir=experts,
        experts_per_utterance=top_k,
        freeze_shared_expert=freeze,
        num_train_epochs=epochs.joint,
        data_seed=args.seed + 2000,
    )

    # 7 Systems that the mixture is compared with, each trained as long
    if "soup" in systems:
        run(average_checkpoints, "soup", candidates=[pipeline.out / "joint"], method="uniform")
    if "single_lora" in systems:
        more = args.total_epochs - epochs.shared
        run(
            pretrain_experts,
            "single_lora",
            num_train_epochs=more,
            lora_model=first,
            learning_rate=args.further_rate,
            **onward,
        )
    if "single_lora_wide" in systems:
        wide = {
            name: experts.read("config.json")[name] * clusters["num_experts"] for name in ("lora_rank", "lora_alpha")
        }
        run(pretrain_experts, "single_lora_wide", num_train_epochs=args.total_epochs, **wide)
    if "full" in systems:
        run(finetune_whisper, "full", num_train_epochs=args.total_epochs, **RIVAL[args.mode])

    # 8 Benchmark: of what may be released, on the speakers that choose; of all systems, on the split that judges
    if passed_on.benchmark_top_k:
        passed_on.benchmark_top_k = at_most(passed_on.benchmark_top_k, clusters["num_experts"])
    same = {
        "base_model": args.model,
        "moe_mixture": passed_on.mixture,
        "data_config_override": json.dumps(args.division),
    }
    releasable = [name for name in ("single_lora", "moe") if name in systems]
    if args.selection_share:
        run(
            benchmark_asr,
            "selection",
            keeps=("split", "models", "experts_per_utterance", "max_samples"),
            split=SELECTION,
            experts_per_utterance=1,
            models=",".join(releasable),
            percent=args.data_percent,
            **folders_of(pipeline, releasable),
            **same,
        )
    run(
        benchmark_asr,
        "benchmark",
        experts_per_utterance=top_k,
        models=",".join(systems),
        percent=args.data_percent * args.benchmark_percent / 100,
        **folders_of(pipeline, systems),
        **same,
    )


def folders_of(pipeline: Pipeline, systems: list[str]) -> dict[str, Path]:
    return {f"{name}_model": pipeline.out / folder for name, folder in TRAINED.items() if name in systems}


def take_shared_expert(pipeline: Pipeline, embeddings: Any) -> tuple[Any, Any, dict]:
    """The first LoRA for all, the shared expert (it, or the merge of several), and the size that experts then need."""
    args = pipeline.args
    if not args.epochs.shared:
        return None, None, {}
    same = {"num_train_epochs": args.epochs.shared, "router_layer": embeddings["layer"]}
    first = pipeline.run(pretrain_experts, "shared", **same)
    if args.shared_runs == 1:
        return first, first, {}
    runs = [first]
    for number in range(1, args.shared_runs):
        own = {**same, "seed": args.seed + 100 * number, "speed_factors": [0.9, 1.0, 1.1]}
        runs.append(pipeline.run(pretrain_experts, f"shared_{number}", **own))
    merged = pipeline.run(average_checkpoints, "shared_merge", candidates=runs, method="lora_products", max_samples=0)
    sizes = {name: first.read("config.json")[name] * args.shared_runs for name in ("lora_rank", "lora_alpha")}
    return first, merged, sizes


def results_of(pipeline: Pipeline, steps: dict) -> dict:
    args = pipeline.args
    rivals = [name for name in TRAINED if name in steps]
    trained = {name: steps[name].metrics if name in steps else None for name in (*STAGES, *rivals)}
    judged = read_json_lines(steps["selection"] / "transcripts.jsonl") if "selection" in steps else []
    lines = [line for _, line in judged]
    has_shared = read_record(steps["joint"] / "model" / "config.json", {"shared_expert": bool}, "train again")[
        "shared_expert"
    ]
    shared = ("merge" if args.shared_runs > 1 else "shared_lora") if has_shared else None
    shipped = choose_shipped(lines, args.language, ship=args.ship, shared=shared, seed=args.seed)
    selected = {row["selected_on"] for row in trained.values() if row and row.get("selected_on")}
    corpus = steps.get("corpus", args.data)
    return {
        "mode": args.mode,
        "seed": args.seed,
        "language": args.language,
        "license": pipeline.publishing.model_license,
        "base_model": base_model_id(args.model),
        **shipped,
        "benchmark": steps["benchmark"].metrics,
        "clusters": steps["reassigned" if "reassigned" in steps else "clusters"].metrics,
        "corpus": summarise_corpus(str(corpus), args.share),
        "training": trained,
        "selected_on": sorted(selected),
    }


if __name__ == "__main__":
    run_recipe(main)
