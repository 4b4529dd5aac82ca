"""The whole of MoE-Whisper: corpus, embeddings, clusters, router, experts, joint training, benchmark, card.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/run_moe_pipeline.py --config recipes/configs/run_moe_pipeline/default.yaml \\
    --data data/my_speakers --model openai/whisper-small --output_dir runs/moe
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds its own folder; the steps are imported as recipes.<step>

from hf_components.arguments import parse_arguments
from hf_components.checkpoints import base_model_id
from hf_components.corpus import describe_corpus, load_corpus
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.moe_release import release_model
from hf_components.stages import environment, read_proof, run_stage, write_json
from recipes import (
    benchmark_asr,
    cluster_embeddings,
    extract_embeddings,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    train_moe_whisper,
)

CONFIGS = Path(__file__).parent / "configs"
EPOCHS = {"quick": (2, 2), "full": (5, 10)}  # of expert pre-training and of joint training
STAGES = ("prepare_corpus", "extract_embeddings", "cluster_embeddings", "pretrain_router", "pretrain_experts",
          "train_moe_whisper", "benchmark_asr")


@dataclass
class Arguments:
    data: str = field(metadata={"help": "speaker-JSON folder (Train/, Dev/), or a prepared corpus: folder or Hub id"})
    output_dir: str = field(metadata={"help": "run folder; the model goes to <output_dir>/model"})
    model: str = field(default="models/whisper-tiny.en", metadata={"help": "base Whisper: folder or Hub id"})
    mode: Literal["quick", "full"] = field(default="full", metadata={
        "help": "configurations of the stages: quick.yaml (minutes on two CPU cores) or default.yaml (a GPU)"})
    seed: int = field(default=42, metadata={"help": "seed of every stage"})
    max_samples: int | None = field(default=None, metadata={"help": "utterances per split taken from a speaker-JSON folder"})
    num_experts: int = field(default=4, metadata={"help": "experts"})
    experts_per_utterance: int = field(default=2, metadata={
        "help": "experts of top-k routing", "aliases": ["--top_k_experts", "--moe_top_k"]})
    algorithm: Literal["spectral", "group"] = field(default="spectral", metadata={
        "help": "how experts are found: by clustering, or one per known group", "aliases": ["--clustering_algorithm"]})
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    expert_epochs: float | None = field(default=None, metadata={
        "help": "epochs of expert pre-training; default: 2 in mode quick, 5 in mode full"})
    joint_epochs: float | None = field(default=None, metadata={
        "help": "epochs of joint training, default 2 or 10; the single LoRA gets both together"})
    stage_options: list[str] = field(default_factory=list, metadata={
        "help": "further options, each as STAGE.FLAG=VALUE, for example pretrain_experts.learning_rate=1e-4"})
    resume: bool = field(default=False, metadata={"help": "skip finished stages, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    out = Path(args.output_dir)
    if not 1 <= args.experts_per_utterance <= args.num_experts:
        raise UserError(f"experts_per_utterance must lie in [1, num_experts = {args.num_experts}], got "
                        f"{args.experts_per_utterance}")
    options = stage_options(args)
    expert_epochs, joint_epochs = EPOCHS[args.mode]
    expert_epochs = expert_epochs if args.expert_epochs is None else args.expert_epochs
    joint_epochs = joint_epochs if args.joint_epochs is None else args.joint_epochs
    is_raw = any((Path(args.data) / split).is_dir() for split in ("Train", "Dev"))
    if args.max_samples is not None and not is_raw:
        raise UserError(f"--max_samples chooses from a speaker-JSON folder, but {args.data} is prepared already")
    corpus = str(out / "corpus") if is_raw else args.data

    def run(stage, folder: str, **flags) -> dict:
        name = stage.__name__.rsplit(".", 1)[-1]
        size = "quick" if args.mode == "quick" and stage is not prepare_corpus else "default"  # quick: all data, less work
        argv = ["--config", str(CONFIGS / name / f"{size}.yaml"), "--output_dir", str(out / folder), f"--resume={args.resume}"]
        argv += [f"--{flag}={value}" for flag, value in flags.items() if value is not None] + options.get(name, [])
        return stage.main(argv if args.log_file is None else [*argv, f"--log_file={args.log_file}"])

    if is_raw:
        run(prepare_corpus, "corpus", builder="speaker_json", data_dir=args.data, seed=args.seed,
            max_samples=args.max_samples)
    missing = {"train", "dev"} - load_corpus(corpus).keys()  # told now, not after hours of training
    if missing:
        raise UserError(f"{args.data} has no split {' and no split '.join(sorted(missing))}: a mixture is trained on some "
                        "speakers and judged on others; divide the speakers between Train/ and Dev/")
    on_base = {"corpus": corpus, "base_model": args.model, "language": args.language, "seed": args.seed}
    labels = {"labels_dir": out / "clusters"}
    run(extract_embeddings, "embeddings", corpus=corpus, whisper_model=args.model, seed=args.seed)
    clusters = run(cluster_embeddings, "clusters", embedding_dir=out / "embeddings", algorithm=args.algorithm,
                   num_experts=args.num_experts, seed=args.seed)
    router = run(pretrain_router, "router", embedding_dir=out / "embeddings", **labels, seed=args.seed)
    above = {"router_dir": out / "router"}
    experts = run(pretrain_experts, "experts", **on_base, **labels, **above, num_train_epochs=expert_epochs)
    single = run(pretrain_experts, "single_lora", **on_base, **above,
                 num_train_epochs=expert_epochs + joint_epochs)
    joint = run(train_moe_whisper, "joint", **on_base, **above, experts_dir=out / "experts",
                experts_per_utterance=min(args.experts_per_utterance, clusters["num_experts"]),
                num_train_epochs=joint_epochs)
    scores = run(benchmark_asr, "benchmark", **on_base, moe_dir=out / "joint" / "model", single_lora_dir=out / "single_lora",
                 experts_per_utterance=min(args.experts_per_utterance, clusters["num_experts"]))

    results = {
        "mode": args.mode, "seed": args.seed, "language": args.language, "base_model": base_model_id(args.model),
        "corpus": describe_corpus(corpus), "clusters": clusters, "benchmark": scores,
        "training": {"router": router, "experts": experts, "single_lora": single, "joint": joint},
        "seconds": round(sum(proof["seconds"] for proof in map(read_proof, out.iterdir()) if proof)),
        "environment": environment(),
    }
    run_stage(out / "model", lambda folder: release_model(folder, out, results), config=args,
              inputs=[out / "joint", out / "benchmark"], resume=args.resume, alone=True)
    if PartialState().is_main_process:
        write_json(out / "results.json", results)
        print(f"model: {out / 'model'}\ncard: {out / 'model' / 'README.md'}\nfigures: {out / 'results.json'}")
    return results


def stage_options(args: Arguments) -> dict[str, list[str]]:
    """`STAGE.FLAG=VALUE` as flags per stage."""
    options: dict[str, list[str]] = {}
    for option in args.stage_options:
        stage, dot, flag = option.partition(".")
        if stage not in STAGES or not dot or "=" not in flag:
            raise UserError(f"--stage_options takes STAGE.FLAG=VALUE with a stage of {', '.join(STAGES)}, got {option!r}")
        options.setdefault(stage, []).append(f"--{flag}")
    return options


if __name__ == "__main__":
    run_recipe(main)
