"""Evaluate a unit vocoder: speak held-out segments again from their units; write figures and a page to listen to.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/evaluate_vocoder.py --config recipes/configs/evaluate_vocoder/default.yaml \\
    --corpus runs/units/segments --units_dir runs/units/units --vocoder_model runs/units/vocoder/model \\
    --output_dir runs/units/evaluation

Writes results.json, segments.json (every segment), index.html, audio and spectrograms to --output_dir.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from datasets import concatenate_datasets

from hf_components.asr import Transcriber
from hf_components.checkpoints import language_of, load_model
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import language_code, load_corpus, sample_rows
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units import check_same_units, read_units
from hf_components.units.resynthesis import (
    compare_voices,
    hear,
    other_voices,
    resynthesise,
    summarise,
    table,
    units_of,
    write_page,
)


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    corpus: str = flag("output folder of segment_audio, or any prepared corpus", aliases=["--corpus_dir"])
    units_dir: str = flag("output folder of learn_units for that corpus")
    vocoder_model: str = flag("checkpoint of train_unit_vocoder: its folder `model`, or Hub id", aliases=["--vocoder"])
    split: str = flag("split that the vocoder was not trained on", default="dev")
    max_samples: int = flag("segments drawn at random from that split", default=20, aliases=["--num_samples"], min=1)
    recogniser_model: str = flag(
        "recogniser (folder or Hub id) whose errors on original and new speech are compared, or none",
        default="none",
        aliases=["--recogniser"],
    )
    language: str | None = flag(
        "language code of a multilingual recogniser; default: the saved one",
        default=None,
        read=language_code,
        needs="recogniser_model",
    )
    batch_seconds: float = flag("seconds of speech per batch and process, padding included", default=240.0, above=0)
    num_bootstrap: int = flag("number of bootstrap samples of segments for each interval", default=1000, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    inputs = [
        args.corpus,
        args.units_dir,
        args.vocoder_model,
        *([] if args.recogniser_model == "none" else [args.recogniser_model]),
    ]
    results = run_as_stage(produce, args, inputs=inputs)
    show(table(results), f"listen to {Path(args.output_dir) / 'index.html'}")
    return results


def produce(args: Arguments, folder: Path) -> dict:
    units = read_units(args.units_dir)
    vocoder = load_model(UnitHifiGanModel, args.vocoder_model)
    check_same_units(units.identity, args.units_dir, vocoder.config.units or {}, args.vocoder_model)
    transcriber = (
        None
        if args.recogniser_model == "none"
        else Transcriber.from_pretrained(args.recogniser_model, args.language, batch_seconds=args.batch_seconds)
    )
    corpus = sample_rows(load_corpus(args.corpus, args.split, shared_speakers=True), args.max_samples, args.seed)
    everything = concatenate_datasets(list(load_corpus(args.corpus, shared_speakers=True).values()))
    segments = resynthesise(
        vocoder,
        corpus,
        units_of(units, corpus),
        folder,
        others=other_voices(vocoder.config.speakers, everything, corpus, args.seed),
        seed=args.seed,
        batch_seconds=args.batch_seconds,
    )
    compare_voices(segments, everything, folder, args.seed)
    if transcriber is not None:
        hear(segments, transcriber, folder)
    language = transcriber and language_of(transcriber.model)
    results = {**summarise(segments, args.num_bootstrap, args.seed, language), "units": units.identity}
    if PartialState().is_main_process:
        write_json(folder / "segments.json", segments)
        write_json(folder / "results.json", results)
        about = {
            "vocoder": args.vocoder_model,
            "corpus": f"{args.corpus}, split {args.split}",
            "recogniser": args.recogniser_model,
            "units": ", ".join(f"{key} {value}" for key, value in units.identity.items()),
        }
        write_page(folder / "index.html", "Speech from acoustic units", about, results, segments)
    return results


if __name__ == "__main__":
    run_recipe(main)
