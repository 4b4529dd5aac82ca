"""Judge transcripts: WER and CER, clipped and not, per group, with intervals, worst utterances and paired comparisons.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/evaluate_asr.py --config recipes/configs/evaluate_asr/default.yaml \\
    --predictions baseline.jsonl finetuned.jsonl --corpus data/prepared --output_dir runs/evaluation
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from dataset_scripts.jsonl_manifest import JsonlManifestConfig
from dataset_scripts.manifest_recordings import read_recordings
from hf_components.asr import Rows, Transcriber, transcribe_to_file
from hf_components.checkpoints import language_of
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage, write_json
from hf_components.scoring import (
    align,
    distinct_names,
    evaluate,
    plot_evaluation,
    read_transcripts,
    references_of_corpus,
    references_of_manifest,
    tables,
)
from hf_components.speech import load_corpus


@dataclass
class Arguments:
    output_dir: str = field(
        metadata={"help": "folder of results.json, evaluation.json (every utterance) and the plot"}
    )
    predictions: list[str] = field(
        default_factory=list,
        metadata={"help": "JSONL files of utterance_id and orthographic_text; each is compared with those before it"},
    )
    model_path: str | None = field(
        default=None, metadata={"help": "transcribe with this checkpoint and judge it too, after the files"}
    )
    adapter: str | None = field(default=None, metadata={"help": "PEFT adapter of that model"})
    language: str | None = field(
        default=None,
        metadata={
            "help": "language code: of the texts, English by default, and for multilingual checkpoints, "
            "which know their own"
        },
    )
    batch_seconds: float = field(default=240.0, metadata={"help": "audio per batch of that model, padding included"})
    max_new_tokens: int = field(default=225, metadata={"help": "longest transcript of that model in tokens"})
    corpus: str | None = field(default=None, metadata={"help": "prepared corpus to judge by: folder or Hub id"})
    split: str = field(default="dev", metadata={"help": "its split"})
    val_manifest: str | None = field(
        default=None, metadata={"help": "JSONL manifest to judge by, instead of a corpus"}
    )
    audio_dirs: list[str] | None = field(
        default=None,
        metadata={"help": "folders to search for the manifest's audio; by default the manifest's and its sub-folders"},
    )
    num_bootstrap: int = field(default=1000, metadata={"help": "resamples over speakers for each interval"})
    seed: int = field(default=42, metadata={"help": "seed of the resampling"})
    worst: int = field(default=10, metadata={"help": "utterances with the most errors that are shown per system"})
    plot: bool = field(default=True, metadata={"help": "draw WER per group"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if (args.corpus is None) == (args.val_manifest is None):
        raise UserError(
            "give either --corpus or --val_manifest to judge by, got " + ("neither" if args.corpus is None else "both")
        )
    if not args.predictions and args.model_path is None:
        raise UserError("there is nothing to judge: give --predictions, --model_path, or both")
    if not 0 < args.batch_seconds < math.inf:
        raise UserError(f"batch_seconds must be positive and finite, got {args.batch_seconds}")
    for name, least in (("num_bootstrap", 0), ("worst", 0), ("max_new_tokens", 1)):
        if vars(args)[name] < least:
            raise UserError(f"{name} must be at least {least}, got {vars(args)[name]}")
    inputs = [
        path for path in (*args.predictions, args.model_path, args.adapter, args.corpus, args.val_manifest) if path
    ]
    heard = args.val_manifest is not None and args.model_path is not None
    recordings = (
        JsonlManifestConfig(manifest=args.val_manifest, audio_dirs=args.audio_dirs).recordings() if heard else {}
    )
    result = run_stage(
        args.output_dir,
        lambda folder: produce(args, folder),
        config=(args, recordings),
        inputs=inputs,
        resume=args.resume,
    )
    if PartialState().is_main_process:
        Console().print(*tables(result), sep="\n")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, args.split) if args.corpus else None
    references = references_of_corpus(corpus) if args.corpus else references_of_manifest(args.val_manifest)
    systems, lacking, language = {}, {}, args.language
    for name, file in zip(distinct_names(args.predictions), args.predictions, strict=True):
        systems[name], lacking[name] = align(file, read_transcripts(file), references)
    if args.model_path:
        recordings = Rows(corpus) if args.corpus else read_recordings(args.val_manifest, args.audio_dirs, {})
        transcriber = Transcriber.from_pretrained(
            args.model_path,
            args.language,
            adapter=args.adapter or (),
            batch_seconds=args.batch_seconds,
            max_new_tokens=args.max_new_tokens,
        )
        language = language or language_of(transcriber.model)
        transcribe_to_file(
            transcriber,
            recordings,
            folder / "predictions.jsonl",
            order=recordings.ids,
            identity={},
            resume=args.resume,
        )
        written = read_transcripts(folder / "predictions.jsonl")
        systems[args.model_path], lacking[args.model_path] = align(args.model_path, written, references)
    result, utterances = evaluate(
        systems, references, num_bootstrap=args.num_bootstrap, seed=args.seed, worst=args.worst, language=language
    )
    for name, counts in lacking.items():
        result["systems"][name] |= counts
    if PartialState().is_main_process:
        write_json(folder / "results.json", result)
        write_json(folder / "evaluation.json", utterances)
        if args.plot:
            plot_evaluation(folder / "wer_per_group.png", result)
    return result


if __name__ == "__main__":
    run_recipe(main)
