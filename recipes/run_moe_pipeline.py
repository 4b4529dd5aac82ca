"""The whole of MoE-Whisper: corpus, embeddings, clusters, router, experts, joint training, benchmark, card.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_moe_pipeline.py --config recipes/configs/run_moe_pipeline/default.yaml \\
    --data data/my_speakers --model openai/whisper-small --output_dir runs/moe
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that the steps are found as recipes.<step>

from hf_components.checkpoints import base_model_id
from hf_components.moe import RIVAL, MoePipelineArguments, RoutingArguments, at_most, release_model
from hf_components.moe.benchmark import FLAGS, choose_systems
from hf_components.moe.clustering import ClusteringArguments
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    UserError,
    all_flags,
    finish_pipeline,
    parse_arguments,
    passed_on_arguments,
    run_recipe,
    same_names,
    stage_options,
    stage_runner,
)
from hf_components.speech import describe_corpus, load_corpus
from recipes import (
    average_checkpoints,
    benchmark_asr,
    cluster_embeddings,
    extract_embeddings,
    finetune_whisper,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    train_moe_whisper,
)

CONFIGS = Path(__file__).parent / "configs"

FOLDERS = {
    "corpus": prepare_corpus,
    "embeddings": extract_embeddings,
    "clustering_embeddings": extract_embeddings,
    "clusters": cluster_embeddings,
    "router": pretrain_router,
    "shared": pretrain_experts,
    "experts": pretrain_experts,
    "joint": train_moe_whisper,
    "soup": average_checkpoints,
    "single_lora": pretrain_experts,
    "single_lora_wide": pretrain_experts,
    "full": finetune_whisper,
    "benchmark": benchmark_asr,
}
STAGES = {stage.__name__.rsplit(".", 1)[-1]: stage for stage in FOLDERS.values()}
TRAINING = same_names(
    "gradient_accumulation_steps", "fp16", "no_fp16", "bf16", "save_every_n_epochs", "eval_every_n_epochs"
)
PASSED_ON = {
    cluster_embeddings: {**all_flags(ClusteringArguments, without=("seed",)), **same_names("plot_method")},
    pretrain_router: {"gating_batch_size": "batch_size"},
    pretrain_experts: {"expert_batch_size": "per_device_train_batch_size", **TRAINING},
    train_moe_whisper: {
        "asr_batch_size": "per_device_train_batch_size",
        **TRAINING,
        **all_flags(RoutingArguments),
        **same_names("mixture", "rebase_output_dir"),
    },
    average_checkpoints: {"benchmark_batch_size": "batch_size"},
    finetune_whisper: {"asr_batch_size": "per_device_train_batch_size", **TRAINING},
    benchmark_asr: {f"benchmark_{flag}": flag for flag in ("split", "max_samples", "batch_size", "seed", "models")}
    | {"benchmark_top_k": "experts_per_utterance", "benchmark_mixture": "moe_mixture"},
}


ARGUMENTS = (MoePipelineArguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    args, publishing, passed_on = parse_arguments(ARGUMENTS, argv, __doc__)
    out = Path(args.output_dir)
    options = stage_options(args.stage_options, STAGES | FOLDERS)
    models = choose_systems(
        passed_on.benchmark_models or "zero_shot,single_lora,moe", dict.fromkeys(FLAGS, "trained here")
    )
    shared_epochs, expert_epochs, joint_epochs = args.epochs
    if "moe" not in models:
        raise UserError(f"benchmark_models must name moe, whose card it is, got {passed_on.benchmark_models}")
    if passed_on.algorithm != "group" and args.experts_per_utterance > (passed_on.num_experts or 10**6):
        raise UserError(
            f"experts_per_utterance must lie in [1, num_experts = {passed_on.num_experts}], got "
            f"{args.experts_per_utterance}"
        )

    quick = set(FOLDERS.values()) - {prepare_corpus} if args.mode == "quick" else ()  # all data, less work
    run = stage_runner(CONFIGS, quick, out, passed_on, PASSED_ON, options, resume=args.resume, log_file=args.log_file)

    corpus = prepare(args, run, passed_on.benchmark_split or "dev")
    share = {"data_config_override": json.dumps({"percent": args.data_percent})}
    plot = {"plot": not args.no_plot}
    on_base = {"corpus": corpus, "base_model": args.model, "language": args.language, "seed": args.seed}
    training = {**on_base, **share, **plot, "dataloader_num_workers": args.num_workers}
    embeddings = {"corpus": corpus, "seed": args.seed, "num_workers": args.num_workers, **share}
    run(extract_embeddings, "embeddings", whisper_model=args.model, **embeddings)
    of_base = args.whisper_model is None and args.pooling == "mean"
    if not of_base:  # experts may be found in other embeddings, but the router reads those of the base model
        run(
            extract_embeddings,
            "clustering_embeddings",
            whisper_model=args.whisper_model or args.model,
            pooling=args.pooling,
            full_context_samples=0,
            **embeddings,
        )
    clusters = run(
        cluster_embeddings,
        "clusters",
        embedding_dir=out / ("embeddings" if of_base else "clustering_embeddings"),
        seed=args.seed,
        **plot,
    )
    top_k = at_most(args.experts_per_utterance, clusters["num_experts"])
    if passed_on.benchmark_top_k:
        passed_on.benchmark_top_k = at_most(passed_on.benchmark_top_k, clusters["num_experts"])
    labels = {"labels_dir": out / "clusters"}
    router = run(pretrain_router, "router", embedding_dir=out / "embeddings", **labels, seed=args.seed, **plot)
    above = {"router_dir": out / "router"}
    shared = (
        run(pretrain_experts, "shared", **training, **above, num_train_epochs=shared_epochs) if shared_epochs else None
    )
    # What goes on from there sees other batches and masks, by another data_seed.
    further = {
        **training,
        **above,
        "data_seed": args.seed + 1000,
        "learning_rate": args.further_rate,
        "single_lora_dir": out / "shared" if shared else None,
    }
    has_shared = bool(shared) and clusters["num_experts"] > 1  # a single expert starts from the LoRA itself
    frozen = {"freeze_shared_expert": has_shared and args.freeze_shared_expert}
    experts = run(pretrain_experts, "experts", **further, **labels, **frozen, num_train_epochs=expert_epochs)
    joint = run(
        train_moe_whisper,
        "joint",
        **training,
        **above,
        **frozen,
        experts_dir=out / "experts",
        experts_per_utterance=top_k,
        num_train_epochs=joint_epochs,
        data_seed=args.seed + 2000,
    )

    rank, whole = (
        json.loads((out / "experts" / "config.json").read_text()),
        {**training, "num_train_epochs": sum(args.epochs)},
    )
    wide = {name: rank[name] * clusters["num_experts"] for name in ("lora_rank", "lora_alpha")}
    rivals = {
        name: train()
        for name, train in {
            "soup": lambda: run(
                average_checkpoints,
                "soup",
                candidates=[out / "joint"],
                corpus=corpus,
                method="uniform",
                seed=args.seed,
            ),
            "single_lora": lambda: run(
                pretrain_experts, "single_lora", **further, num_train_epochs=expert_epochs + joint_epochs
            ),
            "single_lora_wide": lambda: run(pretrain_experts, "single_lora_wide", **whole, **above, **wide),
            "full": lambda: run(finetune_whisper, "full", **whole, **RIVAL[args.mode]),
        }.items()
        if name in models
    }
    folders = {
        "single_lora_dir": "single_lora",
        "single_lora_wide_dir": "single_lora_wide",
        "full_dir": "full/model",
        "soup_dir": "soup/model",
        "moe_dir": "joint/model",
    }
    scores = run(
        benchmark_asr,
        "benchmark",
        **on_base,
        **plot,
        experts_per_utterance=top_k,
        models=",".join(models),
        moe_mixture=passed_on.mixture,
        percent=args.data_percent * args.benchmark_percent / 100,
        **{flag: out / folder for flag, folder in folders.items() if flag.removesuffix("_dir") in models},
    )

    trained = {"router": router, "shared": shared, "experts": experts, "joint": joint, **rivals}
    selected = {row["selected_on"] for row in trained.values() if row and row.get("selected_on")}
    results = {
        "mode": args.mode,
        "seed": args.seed,
        "language": args.language,
        "license": publishing.model_license,
        "base_model": base_model_id(args.model),
        "benchmark": scores,
        "clusters": clusters,
        "corpus": describe_corpus(corpus, share["data_config_override"]),
        "training": trained,
        "selected_on": sorted(selected),
    }
    results = finish_pipeline(
        out,
        results,
        release_model,
        config=(args, passed_on),
        resume=args.resume,
        inputs=[out / "joint", out / "benchmark"],
    )
    push(publishing, out / "model")
    return results


def prepare(args: MoePipelineArguments, run, benchmark_split: str) -> str:
    """The prepared corpus: the one given, or made from a speaker-JSON folder."""
    is_raw = any((Path(args.data) / split).is_dir() for split in ("Train", "Dev"))
    if args.max_samples is not None and not is_raw:
        raise UserError(f"--max_samples chooses from a speaker-JSON folder, but {args.data} is prepared already")
    corpus = str(Path(args.output_dir) / "corpus") if is_raw else args.data
    if is_raw:
        run(
            prepare_corpus,
            "corpus",
            builder="speaker_json",
            data_dir=args.data,
            seed=args.seed,
            max_samples=args.max_samples,
        )
    splits = load_corpus(corpus).keys()  # looked at now, not after hours of training
    if missing := {"train", "dev"} - splits:
        raise UserError(
            f"{args.data} has no split {' and no split '.join(sorted(missing))}: a mixture is trained on some "
            "speakers and judged on others; divide the speakers between Train/ and Dev/"
        )
    if benchmark_split.lower() not in splits:
        raise UserError(f"{args.data} has no split {benchmark_split} to benchmark on; it has {', '.join(splits)}")
    return corpus


if __name__ == "__main__":
    run_recipe(main)
