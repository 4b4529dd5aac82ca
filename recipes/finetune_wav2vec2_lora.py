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
from hf_components.checkpoints import base_model_id
from hf_components.correction import CorrectionArguments
from hf_components.correction.finetuning import (
    ADAPTER,
    ASKED,
    MODEL,
    RESULTS,
    GoldArguments,
    Rounds,
    Wav2Vec2Arguments,
    Wav2Vec2TrainingArguments,
    add_to_finetuned,
    best_of,
    describe,
    estimates,
    improve,
    measure,
    publish_finetuned,
    summary,
    work_of,
    write_gold,
)
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import environment, parse_arguments, run_recipe, run_stage
from hf_components.speech import load_corpus
from hf_components.training import LoraArguments, warn_of_learning_rate

ARGUMENTS = (
    Wav2Vec2Arguments,
    GoldArguments,
    CorrectionArguments,
    LoraArguments,
    Wav2Vec2TrainingArguments,
    PublishModelArguments,
)


def main(argv: list[str] | None = None) -> dict:
    args, gold, llm, lora_args, training_args, publishing = parsed = parse_arguments(ARGUMENTS, argv, __doc__)
    warn_of_learning_rate(training_args, "lora" if args.use_lora else "full")
    source = AudioFolderConfig(data_dir=args.audio_dir, truth=args.truth, require_text=gold.gold == "manifest")
    output_dir = Path(training_args.output_dir)
    add = functools.partial(add_to_finetuned, plot=args.plot, merge_into=args.model if args.merge else None)
    result = run_stage(
        output_dir,
        lambda folder: produce(*parsed, source, work_of(output_dir), folder),
        config=(*parsed, source.recordings()),
        resume=args.resume,
        inputs=[
            *source.inputs(),
            args.model,
            *([llm.llm_model] if gold.gold in ASKED else []),
            *gold.recognisers,
            *gold.judges,
        ],
        derive={"plot": add, "merge": add},
    )
    show(summary(result), f"results: {output_dir / RESULTS}")
    push(publishing, output_dir / (ADAPTER if args.use_lora else MODEL))
    return result


def produce(
    args: Wav2Vec2Arguments,
    gold_args: GoldArguments,
    llm: CorrectionArguments,
    lora_args: LoraArguments,
    training_args: Wav2Vec2TrainingArguments,
    publishing: PublishModelArguments,
    source: AudioFolderConfig,
    work: Path,
    folder: Path,
) -> dict:
    """Run the phases, each a stage in `work` or in the work folder of --prepared; the results go to `folder`."""
    prepared = work_of(args.prepared) if args.prepared else work
    ingested, corpus = ingest(source, prepared / "corpus", args.resume or prepared != work)
    played = Rounds(args, gold_args, llm, lora_args, training_args, corpus, prepared, work)
    rounds = played.play()
    kept = best_of(rounds)
    samples = kept.samples
    heard = played.heard
    scored = [row for row in samples if row.finetuned is not None]
    before = [row.heard for row in scored]
    after = [row.finetuned for row in scored]
    label = gold_args.label(llm.llm_model)
    finetuned = measure(scored, after)
    part = "all" if gold_args.evaluate_on_train else "the held-out"
    show(describe("Fine-tuned Metrics", finetuned, f"{part} {len(scored)} recordings", label))
    result = {
        "base_model": base_model_id(args.model),
        "family": played.family,
        "method": "lora" if args.use_lora else "full",
        "train_on": gold_args.train_on,
        "evaluated_on": "training_recordings" if gold_args.evaluate_on_train else "held_out",
        "gold": {
            "source": gold_args.gold,
            "label": label,
            "nbest": gold_args.nbest,
            "corrections": kept.gold.corrections,
            "wer_truth": measure(samples, kept.gold.texts)["wer_truth"],
            "recognisers": gold_args.recognisers,
            "left_out": played.left_out,
            **estimates(samples, kept.gold),
        },
        "baseline": measure(scored, before),
        "finetuned": finetuned,
        "release": kept.release,
        "rounds": [row.summary() for row in rounds],
        "improvement": improve(scored, before, after, num_bootstrap=args.num_bootstrap, seed=training_args.seed),
        "all_recordings": measure(samples, heard),
        "rejected": ingested["rejected"],
        "training": kept.figures,
        "division": {"eval_ratio": gold_args.eval_ratio, "split_seed": gold_args.split_seed},
        "bootstrap": {
            "resamples": args.num_bootstrap,
            "unit": "recording",
            "confidence": 0.95,
            "seed": training_args.seed,
        },
        "corpus": {"name": Path(args.audio_dir).resolve().name, "hub_id": None, "revision": None},
        "environment": environment(),
        "license": publishing.model_license,
    }
    if PartialState().is_main_process:
        merge_into = args.model if args.merge else None
        if kept.gold.vote is not None:
            names = [args.model, *played.others]
            found = kept.gold
            write_gold(
                folder / "gold.jsonl", corpus["id"][:], names, kept.lists, found.texts, found.errors, found.vote
            )
        what_is_made = (prepared / "corpus", kept.training, result, samples, kept.corrections)
        publish_finetuned(folder, *what_is_made, plot=args.plot, merge_into=merge_into)
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
