"""Benchmark a MoE-Whisper against zero-shot Whisper, a single LoRA and oracle routing, on one fixed sample.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/benchmark_asr.py --config recipes/configs/benchmark_asr/default.yaml \\
    --corpus data/prepared --moe_dir runs/moe/joint/model --single_lora_dir runs/moe/single_lora \\
    --output_dir runs/moe/benchmark
"""

import json
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from rich.console import Console

from hf_components import benchmark
from hf_components.arguments import parse_arguments
from hf_components.checkpoints import base_model_id, load_moe_whisper, load_whisper
from hf_components.corpus import load_corpus
from hf_components.errors import UserError
from hf_components.logs import run_recipe
from hf_components.plots import plot_bars
from hf_components.stages import run_stage, write_json
from hf_components.training.experts import load_trained_experts
from hf_components.transcription import transcribe


@dataclass
class Arguments:
    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    moe_dir: str = field(metadata={"help": "MoE-Whisper checkpoint: folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder of benchmark.json, transcripts, gates and plots"})
    single_lora_dir: str | None = field(default=None, metadata={"help": "output of pretrain_experts without labels"})
    base_model: str = field(default="models/whisper-tiny.en", metadata={"help": "Whisper checkpoint: folder or Hub id"})
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    split: str = field(default="dev", metadata={"help": "split that is transcribed"})
    max_samples: int = field(default=200, metadata={"help": "utterances in the fixed sample"})
    sample_file: str | None = field(default=None, metadata={
        "help": "the fixed sample; default: benchmark_samples_*.json beside output_dir"})
    experts_per_utterance: int = field(default=2, metadata={
        "help": "experts of the top-k row", "aliases": ["--moe_top_k", "--top_k_experts"]})
    mixture: Literal["weights", "logits"] = field(default="weights", metadata={
        "help": "how the top-k row mixes", "aliases": ["--moe_mixture"]})
    batch_size: int = field(default=16, metadata={"help": "utterances per batch and process"})
    num_beams: int = field(default=1, metadata={"help": "beams; 1 is greedy"})
    max_new_tokens: int = field(default=225, metadata={"help": "longest transcript in tokens"})
    num_bootstrap: int = field(default=1000, metadata={"help": "resamples over speakers for each interval"})
    seed: int = field(default=42, metadata={"help": "seed of the sample and of the resampling"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [path for path in (args.corpus, args.moe_dir, args.base_model, args.single_lora_dir, args.sample_file) if path]
    result = run_stage(args.output_dir, lambda folder: produce(args, folder), config=args, inputs=inputs, resume=args.resume)
    if PartialState().is_main_process:
        Console().print(*benchmark.summary_tables(result), sep="\n")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    rows_of_split = load_corpus(args.corpus, args.split)
    file = Path(args.sample_file) if args.sample_file else benchmark.sample_file(
        Path(args.output_dir).parent, rows_of_split, args.split, args.max_samples, args.seed)
    corpus = benchmark.fixed_sample(rows_of_split, file, args.max_samples, args.seed)
    base, processor = load_whisper(args.base_model, args.language)
    moe, _ = load_moe_whisper(args.moe_dir)
    if not 1 <= args.experts_per_utterance <= moe.config.num_experts:
        raise UserError(f"experts_per_utterance must lie in [1, num_experts = {moe.config.num_experts}], got "
                        f"{args.experts_per_utterance}")
    adapted, given = moe.config.base_model_name_or_path, base_model_id(args.base_model)
    if adapted and Path(adapted).name != Path(given).name:
        raise UserError(f"{args.moe_dir} adapts {adapted}, not --base_model {given}; the zero-shot row must be its base")
    if args.single_lora_dir:
        lora = load_trained_experts(base, args.single_lora_dir, audio_context=moe.config.audio_context,
                                    min_audio_context=moe.config.min_audio_context)
        if lora.config.num_experts != 1:
            raise UserError(f"--single_lora_dir must hold one LoRA, {args.single_lora_dir} holds {lora.config.num_experts}; "
                            "pretrain_experts without --labels_dir makes it")
    options = {"batch_size": args.batch_size, "num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}

    def run(name, model, **routing):
        return benchmark.run_row(name, context_of(model), partial(transcribe, model, processor, corpus, **options, **routing,
                                                                  description=name))

    rows = [run("zero_shot", base)]  # at 30 s: weights never trained on short input loop when truncated
    if args.single_lora_dir:
        rows.append(run("single_lora", lora.to(base.device)))
    with moe.override(routing="hard"):
        rows.append(run("moe_top1", moe))
    if args.experts_per_utterance > 1:
        with moe.override(routing="top_k", experts_per_utterance=args.experts_per_utterance, mixture=args.mixture):
            rows.append(run(f"moe_top{args.experts_per_utterance}_{args.mixture}", moe))
    every_row = torch.eye(moe.config.num_experts)[:, None].expand(-1, len(corpus), -1)  # (experts, utterances, experts)
    with moe.override(mixture="weights"):
        experts = [run(f"expert_{i}", moe, expert_weights=weights) for i, weights in enumerate(every_row)]
    oracle = benchmark.oracle_choice(experts, corpus)
    rows.append(benchmark.Row("moe_oracle", context_of(moe), [experts[expert].texts[i] for i, expert in enumerate(oracle)],
                              sum(row.seconds for row in experts)))
    gates = benchmark.corpus_gates(moe, processor, corpus, args.batch_size)

    result = benchmark.judge(rows, corpus, baseline="single_lora", num_bootstrap=args.num_bootstrap, seed=args.seed)
    result["sample"] = {"split": args.split, "utterances": len(corpus), "speakers": len(set(corpus["speaker_id"])),
                        "hours": sum(corpus["duration"]) / 3600, "file": file.name, "seed": args.seed,
                        "batch_size": args.batch_size}
    result["routing"] = benchmark.routing_summary(gates, experts, oracle, corpus)
    if PartialState().is_main_process:
        write_outputs(args, folder, result, rows, corpus, gates, oracle)
    return result


def write_outputs(args: Arguments, folder: Path, result: dict, rows, corpus, gates, oracle) -> None:
    write_json(folder / "benchmark.json", result)
    benchmark.write_transcripts(folder / "transcripts.jsonl", rows, corpus)
    benchmark.write_gates(folder / "gating.jsonl", gates, oracle, corpus)
    groups = sorted(set(corpus["group"]))
    plot_bars(folder / "wer_per_group.png", {name: [100 * row["per_group"][group]["wer"] for group in groups]
                                             for name, row in result["rows"].items()}, groups, "WER (%)",
              f"WER per group, {len(corpus)} utterances of the split {args.split}")
    usage = result["routing"]["usage_per_group"]
    plot_bars(folder / "routing_per_group.png", {f"expert {i}": [100 * usage[group][i] for group in groups]
                                                 for i in range(gates.shape[1])}, groups, "utterances (%)",
              f"Experts that the router chooses, split {args.split}")
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "output": args.output_dir, "sample": result["sample"],
            "wer": {name: row["wer"] for name, row in result["rows"].items()}}
    with (Path(args.output_dir).parent / "benchmarks_index.jsonl").open("a") as index:
        index.write(json.dumps(line) + "\n")


def context_of(model) -> str:
    return "30 s" if model.audio_context == "full" else f">= {model.min_audio_context / 100:g} s"


if __name__ == "__main__":
    run_recipe(main)
