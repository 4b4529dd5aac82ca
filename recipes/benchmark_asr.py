"""Compare a MoE-Whisper with zero-shot Whisper, LoRA, full fine-tuning, oracle and random routing on a fixed sample.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/benchmark_asr.py --config recipes/configs/benchmark_asr/default.yaml \\
    --corpus data/prepared --moe_model runs/moe/joint/model --single_lora_model runs/moe/single_lora \\
    --output_dir runs/moe/benchmark

Writes results, gates and plots to --output_dir. The index and the sample lie beside that folder.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState

from hf_components.checkpoints import BEAMS
from hf_components.moe.benchmark import (
    ALL,
    COMBINATIONS,
    FLAGS,
    TOP_1,
    Row,
    add_to_index,
    choose_combinations,
    choose_systems,
    copy_result,
    fixed_sample,
    load_system,
    mixture_config,
    plot_benchmark,
    routing_summary,
    row_title,
    run_mixture,
    run_row,
    sample_file,
    score_rows,
    summary_tables,
    write_benchmark,
    write_transcripts,
)
from hf_components.reporting import show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    join_processes,
    parse_arguments,
    read_completion,
    run_recipe,
    run_stage,
)
from hf_components.speech import Sampling, language_flag, load_corpus, require_readable


@dataclass
class Arguments(RecipeArguments, SeedArguments, PlotArguments):
    corpus: str = flag("prepared corpus: folder or Hub id")
    models: str | None = flag(
        f"systems to score, separated by commas, of {','.join(FLAGS)}, and folders or Hub ids of any other "
        "recogniser; default: all whose folder is given",
        default=None,
    )
    moe_model: str | None = flag("MoE-Whisper: folder or Hub id", default=None, aliases=["--moe_dir"])
    soup_model: str | None = flag(
        "MoE-Whisper of averaged checkpoints, scored with top-1 routing", default=None, aliases=["--soup_dir"]
    )
    single_lora_model: str | None = flag(
        "single LoRA: output of pretrain_experts without labels", default=None, aliases=["--single_lora_dir"]
    )
    single_lora_wide_model: str | None = flag(
        "single LoRA with the rank of all experts together: output of pretrain_experts without labels",
        default=None,
        aliases=["--single_lora_wide_dir"],
    )
    full_model: str | None = flag(
        "fully fine-tuned Whisper, scored with an audio context of 30 s: folder or Hub id",
        default=None,
        aliases=["--full_dir"],
    )
    merge_model: str | None = flag(
        "merge of several LoRAs trained apart: output of average_checkpoints, or PEFT adapter", default=None
    )
    choose_model: str | None = flag(
        "MoE-Whisper of LoRAs trained apart, as saved: output of assemble_moe_whisper, or Hub id", default=None
    )
    base_model: str = flag(
        "Whisper of the zero-shot row, base of the other systems: folder or Hub id", default="models/whisper-tiny.en"
    )
    language: str | None = language_flag()
    split: str = flag("split to transcribe (Train and Dev mean train and dev)", default="dev")
    data_config_override: str | None = flag(
        "part of the corpus to use, and who is held out: JSON, see pretrain_experts", default=None
    )
    percent: float = flag("share of the split to draw the sample from, in per cent", default=100.0, above=0, max=100)
    max_samples: int = flag("size of the fixed sample in utterances, at most", default=200, min=1)
    sample_file: str | None = flag("fixed sample; default: benchmark_samples_*.json beside output_dir", default=None)
    experts_per_utterance: int = flag(
        "experts of the top-k row; 1: no such row",
        default=2,
        aliases=["--moe_top_k", "--top_k_experts"],
        min=1,
        needs="moe_model",
    )
    moe_mixture: Literal["weights", "logits"] = flag(
        "how the top-k row mixes experts; logits if no value follows",
        default="weights",
        nargs="?",
        const="logits",
        aliases=["--mixture"],
        needs="moe_model",
    )
    combine: list[str] = flag(
        "ways of combining the experts without training, a row each (see docs/how_it_works.md); merge: their mean, "
        "soft: by the gates, beta: the best one and the mean, speaker: one expert per speaker, logits: mixed "
        "probabilities of all, mbr: the text nearest to all, rover: a vote on each word, choose: the "
        "text of least risk by all",
        default=["merge"],
        choices=[*COMBINATIONS, ALL],
        needs="moe_model",
    )
    beta: float = flag(
        "weight of the router's best expert in --combine beta; the mean of all experts has the rest",
        default=0.5,
        min=0,
        max=1,
        needs={"combine": ("beta", ALL)},
    )
    batch_size: int = flag("utterances per batch and process", default=16, min=1)
    num_beams: int = flag(
        "beams of every system; 1 is greedy. To compare numbers, run once for each: output folders side by side "
        "share the sample",
        default=BEAMS,
        min=1,
    )
    max_new_tokens: int = flag("longest transcript in tokens", default=225, min=1)
    num_bootstrap: int = flag("number of bootstrap samples of speakers for each interval", default=1000, min=0)
    run_id: str | None = flag("part of the file names; default: name of the folder above output_dir", default=None)
    output: str | None = flag("also write the result of the largest k to this file", default=None)
    gating_output: str | None = flag(
        "also write the gates of the largest k to this file", default=None, needs="moe_model"
    )

    def __post_init__(self):
        self.split = {"Train": "train", "Dev": "dev"}.get(self.split, self.split)
        self.combine = choose_combinations(self.combine)

    @property
    def folders(self) -> dict[str, str | None]:
        return {name: getattr(self, flag) for name, flag in FLAGS.items()}


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    names = choose_systems(args.models, args.folders)
    if args.gating_output and "moe" not in names:
        raise UserError("--gating_output needs a router: give --moe_model, or leave it out")
    out = Path(args.output_dir)
    run_id = out.resolve().parent.name if args.run_id is None else args.run_id
    if not run_id or Path(run_id).name != run_id:
        raise UserError(f"--run_id becomes part of file names and must hold no slash, got {run_id!r}; choose one")
    join_processes()
    sample = draw_sample(args)  # also for a result that is kept: its sample may have been deleted
    others = [name for name in names if name not in FLAGS]
    inputs = [path for path in (args.corpus, *args.folders.values(), *others, args.sample_file) if path]
    result = run_stage(
        out,
        lambda folder: produce(args, names, run_id, *sample, folder),
        inputs=inputs,
        resume=args.resume,
        config=dataclasses.replace(args, output=None, gating_output=None),
        derive={"plot": plot},
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
        show(*summary_tables(result))
    return result


def draw_sample(args: Arguments) -> tuple[datasets.Dataset, Path]:
    """The utterances to score and the file that names them, which is written if it does not exist."""
    rows_of_split = load_corpus(args.corpus, args.split, args.data_config_override)
    sampling = Sampling(percent=args.percent, max_samples=args.max_samples, seed=args.seed)
    file = (
        Path(args.sample_file)
        if args.sample_file
        else sample_file(Path(args.output_dir).parent, rows_of_split, args.split, sampling)
    )
    return fixed_sample(rows_of_split, file, sampling), file


def produce(
    args: Arguments, names: list[str], run_id: str, corpus: datasets.Dataset, sample: Path, folder: Path
) -> dict:
    require_readable(corpus, args.corpus, args.split)
    config = mixture_config(args.folders, names, args.experts_per_utterance)
    options = {"batch_size": args.batch_size, "num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens}

    def run(name: str) -> Row:  # a model is freed before the next is loaded
        system = load_system(name, args.folders, args.language, config)
        return run_row(row_title(name), *system, corpus, language=args.language, **options)

    rows = [run(name) for name in names if name != "moe"]
    mixture = None
    experts = []
    if "moe" in names:
        mixture = run_mixture(
            *load_system("moe", args.folders, args.language, config),
            corpus,
            **options,
            seed=args.seed,
            experts_per_utterance=args.experts_per_utterance,
            mixture=args.moe_mixture,
            combine=args.combine,
            beta=args.beta,
        )
        rows += mixture.rows
        experts = mixture.experts
    result = {
        "run_id": run_id,
        "sample": figures_of(args, corpus, sample),
        **score_rows(rows, corpus, experts, num_bootstrap=args.num_bootstrap, seed=args.seed),
    }
    if mixture is not None:
        result["routing"] = routing_summary(mixture, TOP_1, corpus)
    if PartialState().is_main_process:
        write_benchmark(folder, run_id, result, mixture, corpus)
        write_transcripts(folder / "transcripts.jsonl", rows + experts, corpus)
        if args.plot:
            plot_benchmark(folder, result)
    return result


def figures_of(args: Arguments, corpus: datasets.Dataset, sample: Path) -> dict:
    """What was scored, and how it was decoded."""
    return {
        "split": args.split,
        "utterances": len(corpus),
        "speakers": len(set(corpus["speaker_id"])),
        "hours": sum(corpus["duration"]) / 3600,
        "file": sample.name,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "num_beams": args.num_beams,
        "processes": PartialState().num_processes,
    }


def plot(finished: Path, folder: Path) -> None:
    plot_benchmark(folder, read_completion(finished)["metrics"])


if __name__ == "__main__":
    run_recipe(main)
