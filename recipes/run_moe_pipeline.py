"""The whole of MoE-Whisper: corpus, embeddings, clusters, router, experts, joint training, benchmark, card.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/run_moe_pipeline.py --config recipes/configs/run_moe_pipeline/default.yaml \\
    --data data/my_speakers --model openai/whisper-small --output_dir runs/moe
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds its own folder; the steps are imported as recipes.<step>

from hf_components.arguments import parse_arguments
from hf_components.checkpoints import base_model_id
from hf_components.clustering import ClusteringArguments
from hf_components.corpus import describe_corpus, load_corpus
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.moe_release import release_model
from hf_components.pipelines import all_flags, finish_pipeline, passed_on_arguments, same_names, stage_options, stage_words
from hf_components.training.curriculum import RoutingArguments
from recipes import (
    benchmark_asr,
    cluster_embeddings,
    extract_embeddings,
    finetune_whisper,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    soup_checkpoints,
    train_moe_whisper,
)

CONFIGS = Path(__file__).parent / "configs"

EPOCHS = {"quick": (4, 0.5, 1), "full": (4, 2, 4)}  # of the shared LoRA, of all experts, of joint training
FURTHER_RATE = {"quick": 3e-4, "full": 1.5e-4}  # learning rate of what goes on from the shared LoRA
STAGES = (prepare_corpus, extract_embeddings, cluster_embeddings, pretrain_router, pretrain_experts, train_moe_whisper,
          finetune_whisper, soup_checkpoints, benchmark_asr)
TRAINING = same_names("gradient_accumulation_steps", "fp16", "no_fp16", "bf16", "save_every_n_epochs", "eval_every_n_epochs")
PASSED_ON = {
    cluster_embeddings: {**all_flags(ClusteringArguments, without=("seed",)), **same_names("plot_method")},
    pretrain_router: {"gating_batch_size": "batch_size"},
    pretrain_experts: {"expert_batch_size": "per_device_train_batch_size", **TRAINING},
    train_moe_whisper: {"asr_batch_size": "per_device_train_batch_size", **TRAINING, **all_flags(RoutingArguments),
                        **same_names("mixture", "rebase_output_dir")},
    finetune_whisper: {"asr_batch_size": "per_device_train_batch_size", **TRAINING},
    benchmark_asr: {f"benchmark_{flag}": flag for flag in ("split", "max_samples", "batch_size", "seed", "models")} | {
        "benchmark_top_k": "experts_per_utterance", "benchmark_mixture": "moe_mixture"},
}


@dataclass
class Arguments:
    data: str = field(metadata={
        "help": "speaker-JSON folder (Train/, Dev/), or a prepared corpus: folder or Hub id", "aliases": ["--dataset_root"]})
    output_dir: str = field(metadata={"help": "run folder; the model goes to <output_dir>/model"})
    model: str = field(default="models/whisper-tiny.en", metadata={"help": "base Whisper: folder or Hub id"})
    mode: Literal["quick", "full"] = field(default="full", metadata={
        "help": "configurations of the stages: quick.yaml (minutes on two CPU cores) or default.yaml (a GPU)"})
    seed: int = field(default=42, metadata={"help": "seed of every stage"})
    data_percent: float = field(default=100.0, metadata={"help": "share of every split that every stage takes, in (0, 100]"})
    max_samples: int | None = field(default=None, metadata={"help": "utterances per split taken from a speaker-JSON folder"})
    experts_per_utterance: int = field(default=2, metadata={
        "help": "experts of top-k routing", "aliases": ["--top_k_experts", "--moe_top_k"]})
    whisper_model: str | None = field(default=None, metadata={
        "help": "Whisper whose embeddings are clustered: v2, v3, folder or Hub id; default: the base model"})
    pooling: str = field(default="mean", metadata={"help": "pooling of the embeddings that are clustered"})
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    shared_epochs: float | None = field(default=None, metadata={
        "help": "epochs of the LoRA that the shared expert and the single LoRA start from, 4 by default; 0: from nothing"})
    expert_epochs: float | None = field(default=None, metadata={"help": "epochs of expert pre-training; default 0.5 or 2"})
    joint_epochs: float | None = field(default=None, metadata={
        "help": "epochs of joint training, default 1 or 4; the benchmark's other systems train as long as all three together"})
    learning_rate: float | None = field(default=None, metadata={
        "help": "of experts and single LoRA after the shared one, default 3e-4 or 1.5e-4"})
    benchmark_percent: float = field(default=100.0, metadata={"help": "share of the benchmark's split to draw a sample from"})
    no_plot: bool = field(default=False, metadata={"help": "draw no plots"})
    num_workers: int | None = field(default=None, metadata={"help": "worker processes that load audio, per training process"})
    stage_options: list[str] = field(default_factory=list, metadata={
        "help": "further options, each as STAGE.FLAG=VALUE, for example pretrain_experts.learning_rate=1e-4"})
    resume: bool = field(default=False, metadata={"help": "skip finished stages, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


ARGUMENTS = (Arguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    args, passed_on = parse_arguments(ARGUMENTS, argv, __doc__)
    out = Path(args.output_dir)
    names = {stage: stage.__name__.rsplit(".", 1)[-1] for stage in STAGES}
    options = stage_options(args.stage_options, names.values())
    shared_epochs, expert_epochs, joint_epochs = epochs = [usual if given is None else given for given, usual in zip(
        (args.shared_epochs, args.expert_epochs, args.joint_epochs), EPOCHS[args.mode], strict=True)]
    if not 1 <= args.experts_per_utterance <= (passed_on.num_experts or args.experts_per_utterance):
        raise UserError(f"experts_per_utterance must lie in [1, num_experts = {passed_on.num_experts}], got "
                        f"{args.experts_per_utterance}")

    def run(stage, folder: str, **flags) -> dict:
        name = names[stage]
        size = "quick" if args.mode == "quick" and stage is not prepare_corpus else "default"  # quick: all data, less work
        flags |= {"output_dir": out / folder, "resume": args.resume, "log_file": args.log_file}
        return stage.main(["--config", str(CONFIGS / name / f"{size}.yaml"),
                           *stage_words(flags, PASSED_ON.get(stage, {}), passed_on), *options.get(name, [])])

    corpus = prepare(args, run)
    share = {"data_config_override": json.dumps({"percent": args.data_percent})}
    plot = {"plot": not args.no_plot}
    on_base = {"corpus": corpus, "base_model": args.model, "language": args.language, "seed": args.seed}
    training = {**on_base, **share, **plot, "dataloader_num_workers": args.num_workers}
    embeddings = {"corpus": corpus, "seed": args.seed, "num_workers": args.num_workers, **share}
    run(extract_embeddings, "embeddings", whisper_model=args.model, **embeddings)
    of_base = args.whisper_model is None and args.pooling == "mean"
    if not of_base:  # experts may be found in other embeddings, but the router reads those of the base model
        run(extract_embeddings, "clustering_embeddings", whisper_model=args.whisper_model or args.model, pooling=args.pooling,
            full_context_samples=0, **embeddings)
    clusters = run(cluster_embeddings, "clusters", embedding_dir=out / ("embeddings" if of_base else "clustering_embeddings"),
                   seed=args.seed, **plot)
    top_k = min(args.experts_per_utterance, clusters["num_experts"])
    labels = {"labels_dir": out / "clusters"}
    router = run(pretrain_router, "router", embedding_dir=out / "embeddings", **labels, seed=args.seed, **plot)
    above = {"router_dir": out / "router"}
    shared, further = None, {**training, **above, "data_seed": args.seed + 1000}  # other batches and masks than before
    if shared_epochs:
        shared = run(pretrain_experts, "shared", **training, **above, num_train_epochs=shared_epochs)
        further |= {"single_lora_dir": out / "shared", "learning_rate": args.learning_rate or FURTHER_RATE[args.mode]}
    experts = run(pretrain_experts, "experts", **further, **labels, num_train_epochs=expert_epochs)
    joint = run(train_moe_whisper, "joint", **training, **above, experts_dir=out / "experts", experts_per_utterance=top_k,
                num_train_epochs=joint_epochs, data_seed=args.seed + 2000)

    models = (passed_on.benchmark_models or "zero_shot,single_lora,moe").split(",")
    rank, whole = json.loads((out / "experts" / "config.json").read_text()), {**training, "num_train_epochs": sum(epochs)}
    wide = {name: rank[name] * clusters["num_experts"] for name in ("lora_rank", "lora_alpha")}
    rivals = {name: train() for name, train in {
        "single_lora": lambda: run(pretrain_experts, "single_lora", **further, num_train_epochs=expert_epochs + joint_epochs),
        "single_lora_wide": lambda: run(pretrain_experts, "single_lora_wide", **whole, **above, **wide),
        "full": lambda: run(finetune_whisper, "full", **whole),
        "soup": lambda: run(soup_checkpoints, "soup", joint_dir=out / "joint", corpus=corpus, method="uniform"),
    }.items() if name in models}
    folders = {"single_lora_dir": "single_lora", "single_lora_wide_dir": "single_lora_wide", "full_dir": "full/model",
               "soup_dir": "soup/model", "moe_dir": "joint/model"}
    scores = run(benchmark_asr, "benchmark", **on_base, **plot, experts_per_utterance=top_k, models=",".join(models),
                 percent=args.data_percent * args.benchmark_percent / 100,
                 **{flag: out / folder for flag, folder in folders.items() if flag.removesuffix("_dir") in models})

    results = {
        "mode": args.mode, "seed": args.seed, "language": args.language, "base_model": base_model_id(args.model),
        "corpus": describe_corpus(corpus), "clusters": clusters, "benchmark": scores,
        "training": {"router": router, "shared": shared, "experts": experts, "joint": joint, **rivals},
    }
    return finish_pipeline(out, results, release_model, config=(args, passed_on), resume=args.resume,
                           inputs=[out / "joint", out / "benchmark"])


def prepare(args: Arguments, run) -> str:
    """The prepared corpus: the one given, or made from a speaker-JSON folder."""
    is_raw = any((Path(args.data) / split).is_dir() for split in ("Train", "Dev"))
    if args.max_samples is not None and not is_raw:
        raise UserError(f"--max_samples chooses from a speaker-JSON folder, but {args.data} is prepared already")
    corpus = str(Path(args.output_dir) / "corpus") if is_raw else args.data
    if is_raw:
        run(prepare_corpus, "corpus", builder="speaker_json", data_dir=args.data, seed=args.seed,
            max_samples=args.max_samples)
    missing = {"train", "dev"} - load_corpus(corpus).keys()  # told now, not after hours of training
    if missing:
        raise UserError(f"{args.data} has no split {' and no split '.join(sorted(missing))}: a mixture is trained on some "
                        "speakers and judged on others; divide the speakers between Train/ and Dev/")
    return corpus


if __name__ == "__main__":
    run_recipe(main)
