"""Score transcripts: WER and CER, clipped and not, per group, with intervals, worst utterances and paired comparisons.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/evaluate_asr.py --config recipes/configs/evaluate_asr/default.yaml \\
    --predictions baseline.jsonl finetuned.jsonl --corpus data/prepared --output_dir runs/evaluation

Writes results.json, evaluation.json (every utterance) and the plot to --output_dir.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from dataset_scripts.jsonl_manifest import JsonlManifestConfig
from dataset_scripts.manifest_recordings import read_recordings
from hf_components.asr import Rows, Transcriber, transcribe_to_file
from hf_components.checkpoints import language_of
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
    plot_evaluation,
    read_transcripts,
    references_of_corpus,
    references_of_manifest,
    tables,
)
from hf_components.speech import TargetArguments, count_from_words, language_code, load_corpus


@dataclass
class Arguments(RecipeArguments, SeedArguments, PlotArguments):
    predictions: list[str] = flag(
        "JSONL files of utterance_id and orthographic_text or phonetic_text; each is compared with those before it",
        default=[],
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
    num_bootstrap: int = flag("resamples over speakers for each interval", default=1000, min=0)
    worst: int = flag("utterances with the most errors to show per system", default=10, min=0)


ARGUMENTS = (Arguments, TargetArguments)


def main(argv: list[str] | None = None) -> dict:
    args, target = parse_arguments(ARGUMENTS, argv, __doc__)
    if (args.corpus is None) == (args.val_manifest is None):
        raise UserError(
            "give either --corpus or --val_manifest, got " + ("neither" if args.corpus is None else "both")
        )
    if not args.predictions and args.model is None:
        raise UserError("there is nothing to score: give --predictions, --model, or both")
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
    show(*tables(result))
    return result


def produce(args: Arguments, target: TargetArguments, folder: Path) -> dict:
    wanted = {"target": target.target, "g2p": target.g2p}
    corpus = load_corpus(args.corpus, args.split, **wanted) if args.corpus else None
    references = references_of_corpus(corpus) if args.corpus else references_of_manifest(args.val_manifest, **wanted)
    systems = {}
    lacking = {}
    language = args.language
    for name, file in zip(distinct_names(args.predictions), args.predictions, strict=True):
        systems[name], lacking[name] = align(file, read_transcripts(file, **wanted), references)
    if args.model:
        recordings = Rows(corpus) if args.corpus else read_recordings(args.val_manifest, args.audio_dirs, {})
        transcriber = Transcriber.from_pretrained(
            args.model,
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
        written = read_transcripts(folder / "predictions.jsonl", **wanted)
        systems[args.model], lacking[args.model] = align(args.model, written, references)
    result, utterances = evaluate(
        systems,
        references,
        num_bootstrap=args.num_bootstrap,
        seed=args.seed,
        worst=args.worst,
        language=language,
        target=target.target,
    )
    result["ipa_from_words"] = count_from_words(corpus, target.target) if corpus else None
    for name, counts in lacking.items():
        result["systems"][name] |= counts
    if PartialState().is_main_process:
        write_json(folder / "results.json", result)
        write_json(folder / "evaluation.json", utterances)
        if args.plot:
            plot(folder, folder)
    return result


def plot(finished: Path, folder: Path) -> None:
    result = read_record(finished / "results.json", dict, "the plot needs it; leave out --plot")
    plot_evaluation(folder / "wer_per_group.png", result)


if __name__ == "__main__":
    run_recipe(main)
