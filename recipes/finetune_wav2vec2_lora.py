"""Fine-tune a wav2vec2 on recordings without transcripts: an LLM corrects its text, a LoRA learns from its errors.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/finetune_wav2vec2_lora.py --config recipes/configs/finetune_wav2vec2_lora/default.yaml \\
    --audio_dir data/finetuning_audio --output_dir models/finetuned_wav2vec2

`audio_dir` holds `clean/` and `noisy/`, or files, which are split in half by name. Finished phases are kept in
<output_dir>_work; after a stop, the same command continues from there.
"""

import functools
import os
from pathlib import Path

import datasets
from accelerate import PartialState

from dataset_scripts.audio_folder import AudioFolder, AudioFolderConfig
from dataset_scripts.prepared import write_corpus
from hf_components.correction.finetuning import (
    ADAPTER,
    ASKED,
    MODEL,
    RESULTS,
    FinetuningFlags,
    Rounds,
    add_to_finetuned,
    best_of,
    describe,
    publish_finetuned,
    results_of,
    summary,
    work_of,
    write_gold,
)
from hf_components.publishing import push
from hf_components.reporting import show
from hf_components.runtime import parse_arguments, require_apart, run_recipe, run_stage
from hf_components.speech import load_corpus
from hf_components.training import warn_of_learning_rate

ARGUMENTS = tuple(FinetuningFlags.__annotations__.values())


def main(argv: list[str] | None = None) -> dict:
    flags = FinetuningFlags(*parse_arguments(ARGUMENTS, argv, __doc__))
    args = flags.args
    gold = flags.gold
    warn_of_learning_rate(flags.training, "lora" if args.use_lora else "full")
    source = AudioFolderConfig(data_dir=args.audio_dir, truth=args.truth, require_text=gold.gold == "manifest")
    output_dir = Path(flags.training.output_dir)
    require_apart(output_dir, [args.audio_dir], wholly=True)
    add = functools.partial(add_to_finetuned, plot=args.plot, merge_into=args.model if args.merge else None)
    result = run_stage(
        output_dir,
        lambda folder: produce(flags, source, work_of(output_dir), folder),
        config=(*flags, source.recordings()),
        resume=args.resume,
        inputs=[
            *source.inputs(),
            args.model,
            *([flags.llm.llm_model] if gold.gold in ASKED else []),
            *gold.recognisers,
            *gold.judges,
        ],
        derive={"plot": add, "merge": add},
    )
    show(summary(result), f"results: {output_dir / RESULTS}")
    push(flags.publishing, output_dir / (ADAPTER if args.use_lora else MODEL))
    return result


def produce(flags: FinetuningFlags, source: AudioFolderConfig, work: Path, folder: Path) -> dict:
    """Run the phases, each a stage in `work` or in the work folder of --prepared; the results go to `folder`."""
    args = flags.args
    prepared = work_of(args.prepared) if args.prepared else work
    ingested, corpus = ingest(source, prepared / "corpus", args.resume or prepared != work)
    played = Rounds(flags, corpus, prepared, work)
    rounds = played.play()
    kept = best_of(rounds)
    result = results_of(flags, played, rounds, ingested["rejected"])
    figures = result["finetuned"]
    title = f"{'all' if flags.gold.evaluate_on_train else 'the held-out'} {figures['samples']} recordings"
    show(describe("Fine-tuned Metrics", figures, title, result["gold"]["label"]))
    if PartialState().is_main_process:
        if kept.gold.vote is not None:
            names = [args.model, *played.others]
            write_gold(folder / "gold.jsonl", corpus["id"][:], names, kept.voters.lists, kept.gold)
        publish_finetuned(
            folder,
            *(prepared / "corpus", kept.training, result, kept.samples, kept.corrections),
            plot=args.plot,
            merge_into=args.model if args.merge else None,
        )
    return result


def ingest(source: AudioFolderConfig, folder: Path, resume: bool) -> tuple[dict, datasets.Dataset]:
    """Prepare a corpus of every readable recording; its `rejected.jsonl` lists the others."""
    options = {name: getattr(source, name) for name in ("data_dir", "truth", "require_text")}
    metrics = run_stage(
        folder,
        lambda stage: write_corpus(
            AudioFolder,
            stage,
            options,
            num_proc=os.cpu_count(),
            name=Path(source.data_dir).resolve().name,
            source="audio_folder",
            language="en",
        ),
        config=(options, source.recordings()),
        inputs=source.inputs(),
        resume=resume,
        alone=True,
    )
    if metrics["rejected"]:
        show(
            "rejected, see rejected.jsonl: "
            + ", ".join(f"{count} {reason}" for reason, count in metrics["rejected"].items())
        )
    return metrics, datasets.concatenate_datasets(list(load_corpus(folder).values()))


if __name__ == "__main__":
    run_recipe(main)
