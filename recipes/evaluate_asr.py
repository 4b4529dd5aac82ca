"""Score transcripts: WER and CER, clipped and not, per group, with intervals, worst utterances and paired comparisons.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/evaluate_asr.py --config recipes/configs/evaluate_asr/default.yaml \\
    --predictions baseline.jsonl finetuned.jsonl --corpus data/prepared --output_dir runs/evaluation

Writes results.json, evaluation.json (every utterance) and the plot to --output_dir. With --scoring sap, the rates are
those of the Speech Accessibility Project Challenge. Predictions may be its CSV files (id,raw_hypos), those of --model
are written as one too, and README.md names challenge, track, split and scorer.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState
from huggingface_hub import ModelCardData

from dataset_scripts.jsonl_manifest import JsonlManifestConfig
from dataset_scripts.manifest_recordings import read_recordings
from hf_components.asr import Rows, Transcriber, transcribe_to_file
from hf_components.checkpoints import language_of
from hf_components.publishing import render_card
from hf_components.reporting import show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    read_record,
    run_recipe,
    run_stage,
    write_json,
)
from hf_components.scoring import (
    align,
    distinct_names,
    evaluate,
    evaluate_sap,
    groups_not_scored,
    plot_evaluation,
    read_hypotheses,
    read_transcripts,
    references_of_corpus,
    references_of_manifest,
    sap_references,
    sap_tables,
    tables,
    write_hypotheses,
)
from hf_components.speech import WORDS, TargetArguments, count_from_words, language_code, load_corpus


@dataclass
class Arguments(RecipeArguments, SeedArguments, PlotArguments):
    predictions: list[str] = flag(
        "JSONL files of utterance_id and orthographic_text or phonetic_text, or CSV files of id and raw_hypos; each "
        "is compared with those before it",
        default=[],
    )
    scoring: Literal["whisper", "sap"] = flag(
        "whisper: WER and CER after Whisper's normaliser; sap: as the Speech Accessibility Project Challenge scores",
        default="whisper",
    )
    sap_track: int = flag(
        "track of that challenge, for the card: 1 unconstrained, 2 streaming",
        default=1,
        min=1,
        max=2,
        needs={"scoring": "sap"},
    )
    model: str | None = flag("checkpoint to transcribe with and to score last", default=None, aliases=["--model_path"])
    adapter: str | None = flag("PEFT adapter of that model", default=None, needs="model")
    language: str | None = flag(
        "language code of texts and model; default: the model's own, or English", default=None, read=language_code
    )
    batch_seconds: float = flag(
        "seconds of audio per batch of that model, padding included", default=240.0, above=0, needs="model"
    )
    max_new_tokens: int = flag("longest transcript of that model in tokens", default=225, min=1, needs="model")
    corpus: str | None = flag("prepared corpus with the references: folder or Hub id", default=None)
    split: str = flag("split of that corpus", default="dev", needs="corpus")
    val_manifest: str | None = flag("JSONL manifest with the references, instead of a corpus", default=None)
    audio_dirs: list[str] | None = flag(
        "folders to search for the manifest's audio; default: its own folder and sub-folders",
        default=None,
        needs="val_manifest",
    )
    num_bootstrap: int = flag("number of bootstrap samples of speakers for each interval", default=1000, min=0)
    worst: int = flag("utterances with the most errors to show per system", default=10, min=0)


ARGUMENTS = (Arguments, TargetArguments)


def main(argv: list[str] | None = None) -> dict:
    args, target = parse_arguments(ARGUMENTS, argv, __doc__)
    check(args, target)
    inputs = [path for path in (*args.predictions, args.model, args.adapter, args.corpus, args.val_manifest) if path]
    heard = args.val_manifest is not None and args.model is not None
    recordings = (
        JsonlManifestConfig(manifest=args.val_manifest, audio_dirs=args.audio_dirs).recordings() if heard else {}
    )
    result = run_stage(
        args.output_dir,
        lambda folder: produce(args, target, folder),
        config=(args, target, recordings),
        inputs=inputs,
        resume=args.resume,
        derive={"plot": plot},
    )
    show(*(sap_tables(result) if args.scoring == "sap" else tables(result)))
    return result


def check(args: Arguments, target: TargetArguments) -> None:
    """Raise UserError for flags that contradict each other."""
    if (args.corpus is None) == (args.val_manifest is None):
        raise UserError(
            "give either --corpus or --val_manifest, got " + ("neither" if args.corpus is None else "both")
        )
    if not args.predictions and args.model is None:
        raise UserError("there is nothing to score: give --predictions, --model, or both")
    if args.scoring == "sap" and args.corpus is None:
        raise UserError("--scoring sap needs --corpus: a manifest has no second reference without disfluencies")
    if args.scoring == "sap" and target.target != WORDS:
        raise UserError(f"--scoring sap scores words, got --target {target.target}")


def produce(args: Arguments, target: TargetArguments, folder: Path) -> dict:
    wanted = {"target": target.target, "g2p": target.g2p}
    corpus = load_corpus(args.corpus, args.split, **wanted) if args.corpus else None
    references_of = sap_references if args.scoring == "sap" else references_of_corpus
    references = references_of(corpus) if args.corpus else references_of_manifest(args.val_manifest, **wanted)
    systems = {}
    lacking = {}
    language = args.language
    for name, file in zip(distinct_names(args.predictions), args.predictions, strict=True):
        systems[name], lacking[name] = align(file, read_hypotheses(file, references.ids, **wanted), references)
    if args.model:
        language = transcribe(args, corpus, folder / "predictions.jsonl")
        written = read_transcripts(folder / "predictions.jsonl", **wanted)
        systems[args.model], lacking[args.model] = align(args.model, written, references)
    score = evaluate_sap if args.scoring == "sap" else partial(evaluate, language=language, target=target.target)
    result, utterances = score(systems, references, num_bootstrap=args.num_bootstrap, seed=args.seed, worst=args.worst)
    result["ipa_from_words"] = count_from_words(corpus, target.target) if corpus else None
    for name, counts in lacking.items():
        result["systems"][name] |= counts
    if args.scoring == "sap":
        lacks = groups_not_scored(load_corpus(args.corpus), args.split)
        result |= {"track": args.sap_track, "split": args.split, "groups_not_scored": lacks}
    if PartialState().is_main_process:
        write_json(folder / "results.json", result)
        write_json(folder / "evaluation.json", utterances)
        if args.scoring == "sap":
            write_card(args, folder, result)
            if args.model:
                write_hypotheses(folder / "predictions.csv", written)
        if args.plot:
            plot(folder, folder)
    return result


def transcribe(args: Arguments, corpus: datasets.Dataset | None, file: Path) -> str:
    """Transcribe the recordings by --model; returns the language of the texts."""
    recordings = Rows(corpus) if args.corpus else read_recordings(args.val_manifest, args.audio_dirs, {})
    transcriber = Transcriber.from_pretrained(
        args.model,
        args.language,
        adapter=args.adapter or (),
        batch_seconds=args.batch_seconds,
        max_new_tokens=args.max_new_tokens,
    )
    transcribe_to_file(transcriber, recordings, file, order=recordings.ids, identity={}, resume=args.resume)
    return args.language or language_of(transcriber.model)


def write_card(args: Arguments, folder: Path, result: dict) -> None:
    data = ModelCardData(metrics=["cer", "wer"], tags=["sapc2"])
    card = render_card("sap_evaluation.md", {**result, "corpus": Path(args.corpus).name}, data)
    (folder / "README.md").write_text(card, encoding="utf-8")


def plot(finished: Path, folder: Path) -> None:
    result = read_record(finished / "results.json", dict, "the plot needs it; leave out --plot")
    plot_evaluation(folder / "wer_per_group.png", result)


if __name__ == "__main__":
    run_recipe(main)
