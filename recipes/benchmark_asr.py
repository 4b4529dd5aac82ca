"""Benchmark a MoE-Whisper against zero-shot Whisper, LoRA, full fine-tuning, oracle and random routing, on one fixed
sample.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/benchmark_asr.py --config recipes/configs/benchmark_asr/default.yaml \\
    --corpus data/prepared --moe_dir runs/moe/joint/model --single_lora_dir runs/moe/single_lora \\
    --output_dir runs/moe/benchmark
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import PartialState
from rich.console import Console

from hf_components.moe.benchmark import (
    FLAGS,
    TOP_1,
    Row,
    add_to_index,
    choose_systems,
    copy_result,
    fixed_sample,
    judge,
    load_system,
    mixture_config,
    plot_benchmark,
    routing_summary,
    run_mixture,
    run_row,
    sample_file,
    summary_tables,
    write_benchmark,
    write_transcripts,
)
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage
from hf_components.speech import Sampling, load_corpus


@dataclass
class Arguments:
    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    output_dir: str = field(metadata={"help": "folder of results, gates and plots; index and sample lie beside it"})
    models: str | None = field(
        default=None,
        metadata={"help": f"systems, divided by commas, of {','.join(FLAGS)}; default: all whose folder is given"},
    )
    moe_dir: str | None = field(default=None, metadata={"help": "MoE-Whisper: folder or Hub id"})
    soup_dir: str | None = field(default=None, metadata={"help": "MoE-Whisper of averaged checkpoints, judged top-1"})
    single_lora_dir: str | None = field(default=None, metadata={"help": "output of pretrain_experts without labels"})
    single_lora_wide_dir: str | None = field(
        default=None, metadata={"help": "the same with the rank of all experts together"}
    )
    full_dir: str | None = field(
        default=None, metadata={"help": "fully fine-tuned Whisper, judged at 30 s: folder or Hub id"}
    )
    base_model: str = field(
        default="models/whisper-tiny.en", metadata={"help": "Whisper checkpoint: folder or Hub id"}
    )
    language: str | None = field(
        default=None,
        metadata={"help": "language code, for multilingual checkpoints; default: the one that they were saved with"},
    )
    split: str = field(default="dev", metadata={"help": "split that is transcribed (Train and Dev are train and dev)"})
    percent: float = field(default=100.0, metadata={"help": "share of the split to draw the sample from, in per cent"})
    max_samples: int = field(default=200, metadata={"help": "utterances in the fixed sample, at most"})
    sample_file: str | None = field(
        default=None, metadata={"help": "the fixed sample; default: benchmark_samples_*.json beside output_dir"}
    )
    experts_per_utterance: int = field(
        default=2,
        metadata={"help": "experts of the top-k row; 1 leaves it out", "aliases": ["--moe_top_k", "--top_k_experts"]},
    )
    moe_mixture: Literal["weights", "logits"] = field(
        default="weights",
        metadata={
            "help": "how the top-k row mixes; logits if no value follows",
            "nargs": "?",
            "const": "logits",
            "aliases": ["--mixture"],
        },
    )
    batch_size: int = field(default=16, metadata={"help": "utterances per batch and process"})
    num_beams: int = field(default=1, metadata={"help": "beams; 1 is greedy"})
    max_new_tokens: int = field(default=225, metadata={"help": "longest transcript in tokens"})
    num_bootstrap: int = field(default=1000, metadata={"help": "resamples over speakers for each interval"})
    seed: int = field(default=42, metadata={"help": "seed of sample, random routing and resampling"})
    run_id: str | None = field(
        default=None, metadata={"help": "part of the file names; default: name of the folder that holds output_dir"}
    )
    output: str | None = field(default=None, metadata={"help": "write the result of the largest k to this file too"})
    gating_output: str | None = field(
        default=None, metadata={"help": "write the gates of the largest k to this file too"}
    )
    plot: bool = field(default=True, metadata={"help": "draw WER and routing per group"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})

    def __post_init__(self):
        self.split = {"Train": "train", "Dev": "dev"}.get(self.split, self.split)

    @property
    def folders(self) -> dict[str, str | None]:
        return {name: getattr(self, flag) for name, flag in FLAGS.items()}


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    names = choose_systems(args.models, args.folders)
    if args.gating_output and "moe" not in names:
        raise UserError("--gating_output needs a router: give --moe_dir, or leave it out")
    out = Path(args.output_dir)
    run_id = out.resolve().parent.name if args.run_id is None else args.run_id
    if not run_id or Path(run_id).name != run_id:
        raise UserError(f"--run_id becomes part of file names and must hold no slash, got {run_id!r}; choose one")
    inputs = [path for path in (args.corpus, *args.folders.values(), args.sample_file) if path]
    result = run_stage(
        out,
        lambda folder: produce(args, names, run_id, folder),
        inputs=inputs,
        resume=args.resume,
        config=dataclasses.replace(args, output=None, gating_output=None),
    )
    if PartialState().is_main_process:
        add_to_index(out.parent / "benchmarks_index.jsonl", sorted(out.glob("benchmark_*.json")))
        largest = f"topk{args.experts_per_utterance}" if "moe" in names and args.experts_per_utterance > 1 else TOP_1
        for kind, flag, target in (
            ("benchmark", "--output", args.output),
            ("gating", "--gating_output", args.gating_output),
        ):
            if target:
                copy_result(next(out.glob(f"{kind}_*_{largest}.json*")), Path(target), flag)
        Console().print(*summary_tables(result), sep="\n")
    return result


def produce(args: Arguments, names: list[str], run_id: str, folder: Path) -> dict:
    config = mixture_config(args.folders, names, args.experts_per_utterance)
    rows_of_split = load_corpus(args.corpus, args.split)
    sampling = Sampling(percent=args.percent, max_samples=args.max_samples, seed=args.seed)
    file = (
        Path(args.sample_file)
        if args.sample_file
        else sample_file(Path(args.output_dir).parent, rows_of_split, args.split, sampling)
    )
    corpus = fixed_sample(rows_of_split, file, sampling)
    options = {"batch_size": args.batch_size, "num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}

    def run(name: str) -> Row:  # a model is freed before the next is loaded
        return run_row(name, *load_system(name, args.folders, args.language, config), corpus, **options)

    rows, mixture = [run(name) for name in names if name != "moe"], None
    if "moe" in names:
        mixture = run_mixture(
            *load_system("moe", args.folders, args.language, config),
            corpus,
            **options,
            seed=args.seed,
            experts_per_utterance=args.experts_per_utterance,
            mixture=args.moe_mixture,
        )
        rows += mixture.rows
    result = {
        "run_id": run_id,
        "sample": {
            "split": args.split,
            "utterances": len(corpus),
            "speakers": len(set(corpus["speaker_id"])),
            "hours": sum(corpus["duration"]) / 3600,
            "file": file.name,
            "seed": args.seed,
            "batch_size": args.batch_size,
            "processes": PartialState().num_processes,
        },
        **judge(rows, corpus, num_bootstrap=args.num_bootstrap, seed=args.seed),
    }
    if mixture is not None:
        result["routing"] = routing_summary(mixture, TOP_1, corpus)
    if PartialState().is_main_process:
        write_benchmark(folder, run_id, result, mixture, corpus)
        write_transcripts(folder / "transcripts.jsonl", rows + (mixture.experts if mixture else []), corpus)
        if args.plot:
            plot_benchmark(folder, result)
    return result


if __name__ == "__main__":
    run_recipe(main)
