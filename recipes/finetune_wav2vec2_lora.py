"""Fine-tune a wav2vec2 on recordings without transcripts: an LLM corrects its text, a LoRA learns from its errors.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/finetune_wav2vec2_lora.py --config recipes/configs/finetune_wav2vec2_lora/default.yaml \\
    --audio_dir data/finetuning_audio --output_dir models/finetuned_wav2vec2

`audio_dir` holds `clean/` and `noisy/`, or files, which are split in half by name. Finished phases are kept in
<output_dir>_work; after a stop, the same command continues from there.
"""

import functools
import os
import time
from pathlib import Path

import datasets
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from dataset_scripts.audio_folder import AudioFolder, AudioFolderConfig
from dataset_scripts.prepared import write_corpus
from hf_components.asr import Ctc, Transcriber, family_of, load_asr
from hf_components.checkpoints import base_model_id
from hf_components.correction import CorrectionArguments
from hf_components.correction.finetuning import (
    ADAPTER,
    ASKED,
    MODEL,
    RESULTS,
    TITLE,
    GoldArguments,
    Wav2Vec2Arguments,
    Wav2Vec2TrainingArguments,
    add_to_finetuned,
    choose_for_training,
    describe,
    estimates,
    examples,
    find_gold,
    guess_rows,
    hear_all,
    improve,
    judge,
    make_samples,
    measure,
    publish_finetuned,
    summary,
    training_rows,
    transcribe_rows,
    work_of,
    write_gold,
)
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import UserError, environment, parse_arguments, run_recipe, run_stage
from hf_components.speech import load_corpus
from hf_components.training import (
    FinetuningArguments,
    LoraArguments,
    TimeEstimate,
    finetune,
    keep_learnable,
    warn_of_learning_rate,
)

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
    prepared, resume = (work_of(args.prepared), True) if args.prepared else (work, args.resume)
    model, processor = load_asr(args.model)
    if gold_args.nbest > 1 and not isinstance(family_of(model), Ctc):
        raise UserError(
            f"--nbest {gold_args.nbest} lists what a CTC model hears, and {args.model} is none; set it to 1"
        )
    ingested, corpus = ingest(source, prepared / "corpus", resume)
    with_words = bool(gold_args.recognisers)
    transcriber = Transcriber(model, processor, batch_seconds=args.batch_seconds, word_confidences=with_words)
    inputs = [prepared / "corpus", args.model]
    said = transcribe_rows(transcriber, corpus, prepared / "baseline", inputs=inputs, resume=resume)
    heard = [one.text for one in said]
    guesses = guess_rows(
        transcriber,
        corpus,
        heard,
        gold_args.nbest,
        prepared / "nbest",
        inputs=[*inputs, prepared / "baseline"],
        resume=resume,
    )
    hears = {"batch_seconds": args.batch_seconds, "resume": resume}
    others = hear_all(gold_args.recognisers, corpus, prepared, "recogniser", **hears)
    gold = find_gold(gold_args, llm, corpus, said, guesses, processor, prepared, resume, others)
    samples = make_samples(corpus, heard, gold, gold_args)
    everywhere = measure(samples, heard)
    label = gold_args.label(llm.llm_model)
    show(describe("Baseline Metrics", everywhere, f"all {len(samples)} recordings", label), examples(samples))

    longest = family_of(model).longest_seconds
    chosen = choose_for_training(samples, gold_args.train_on, longest, gold_args.max_gold_wer)
    rows = keep_learnable(
        training_rows(corpus, chosen), model, processor, max(training_args.speed_factors, default=1.0)
    )
    learnable = set(rows["id"])
    for row in chosen:
        row.trained_on = row.id in learnable
    used = [prepared / name for name in ("corpus", "baseline", "gold")[: 3 if gold_args.gold in ASKED else 2]]
    trained = run_stage(
        work / "training",
        lambda stage: train(args, lora_args, training_args, model, processor, rows, stage),
        config=(
            gold_args,
            lora_args,
            training_args,
            {"use_lora": args.use_lora, "processes": training_args.world_size},
        ),
        inputs=[*used, args.model],
        resume=args.resume,
    )

    indices = [i for i, row in enumerate(samples) if row.held_out or gold_args.evaluate_on_train]
    written = transcribe_finetuned(args, corpus.select(indices), work, prepared)
    for i, text in zip(indices, written, strict=True):
        samples[i].finetuned = text
    scored = [samples[i] for i in indices]
    before = [heard[i] for i in indices]
    finetuned = measure(scored, written)
    held_out = [i for i, sample in enumerate(samples) if sample.held_out]
    is_known = any(samples[i].truth is not None for i in held_out)
    judges = {} if is_known else hear_all(gold_args.judges, corpus.select(held_out), prepared, "judge", **hears)
    release = judge(
        [samples[i] for i in held_out],
        [heard[i] for i in held_out],
        {name: [one.text for one in texts] for name, texts in judges.items()},
        num_bootstrap=args.num_bootstrap,
        seed=training_args.seed,
    )
    part = "all" if gold_args.evaluate_on_train else "the held-out"
    show(describe("Fine-tuned Metrics", finetuned, f"{part} {len(scored)} recordings", label))
    result = {
        "base_model": base_model_id(args.model),
        "family": family_of(model).name,
        "method": "lora" if args.use_lora else "full",
        "train_on": gold_args.train_on,
        "evaluated_on": "training_recordings" if gold_args.evaluate_on_train else "held_out",
        "gold": {
            "source": gold_args.gold,
            "label": label,
            "nbest": gold_args.nbest,
            "corrections": gold.corrections,
            "wer_truth": measure(samples, gold.texts)["wer_truth"],
            "recognisers": gold_args.recognisers,
            **estimates(samples, gold),
        },
        "baseline": measure(scored, before),
        "finetuned": finetuned,
        "release": release,
        "improvement": improve(scored, before, written, num_bootstrap=args.num_bootstrap, seed=training_args.seed),
        "all_recordings": everywhere,
        "rejected": ingested["rejected"],
        "training": trained,
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
        if others:
            names, lists = [args.model, *others], list(zip(said, *others.values(), strict=True))
            write_gold(folder / "gold.jsonl", corpus["id"][:], names, lists, gold.texts, gold.errors, gold.vote)
        publish_finetuned(folder, prepared, work / "training", result, samples, plot=args.plot, merge_into=merge_into)
    return result


def transcribe_finetuned(args: Wav2Vec2Arguments, corpus: datasets.Dataset, work: Path, prepared: Path) -> list[str]:
    """What the fine-tuned model in `work` hears, one text per recording."""
    training = work / "training"
    tuned = Transcriber.from_pretrained(
        args.model if args.use_lora else training / "model",
        adapter=[training / "adapter"] if args.use_lora else [],
        dtype="float32",
        batch_seconds=args.batch_seconds,
    )
    inputs = [prepared / "corpus", training]
    found = transcribe_rows(tuned, corpus, work / "finetuned", resume=args.resume, inputs=inputs)
    return [one.text for one in found]


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


def train(
    args: Wav2Vec2Arguments,
    lora_args: LoraArguments,
    training_args: Wav2Vec2TrainingArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: datasets.Dataset,
    folder: Path,
) -> dict:
    set_seed(training_args.seed)
    total = model.num_parameters()
    estimate = TimeEstimate()
    start = time.monotonic()
    method = FinetuningArguments("lora" if args.use_lora else "full")
    finetuned = finetune(
        model,
        processor,
        rows,
        None,
        method,
        lora_args,
        training_args,
        folder,
        resume=args.resume,
        callbacks=[estimate],
    )
    seconds = time.monotonic() - start
    finetuned.save(folder, TITLE, plot=False, merge=False)
    trainer = finetuned.trainer
    return {
        "recordings": len(rows),
        "steps": trainer.state.global_step,
        "train_loss": trainer.last_loss,
        "trained_parameters": finetuned.trained_parameters,
        "all_parameters": total,
        "estimated_seconds": estimate.seconds,
        "seconds": seconds,
    }


if __name__ == "__main__":
    run_recipe(main)
