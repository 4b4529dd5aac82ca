"""Judge a unit vocoder: held-out segments spoken again from their units, in figures with intervals and as a page to
hear.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/evaluate_vocoder.py --config recipes/configs/evaluate_vocoder/default.yaml \\
    --corpus_dir runs/units/segments --units_dir runs/units/units --vocoder runs/units/vocoder/model \\
    --output_dir runs/units/evaluation
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from rich.console import Console

from hf_components.asr import Transcriber
from hf_components.checkpoints import language_of, load_model
from hf_components.runtime import UserError, parse_arguments, run_recipe, run_stage, write_json
from hf_components.speech import load_corpus, sample_rows
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units import check_same_units, read_units
from hf_components.units.resynthesis import hear, resynthesise, summarise, table, units_of, write_page


@dataclass
class Arguments:
    corpus_dir: str = field(metadata={"help": "output folder of segment_audio, or any prepared corpus"})
    units_dir: str = field(metadata={"help": "output folder of learn_units for that corpus"})
    vocoder: str = field(metadata={"help": "checkpoint of train_unit_vocoder: its folder `model`, or Hub id"})
    output_dir: str = field(
        metadata={"help": "folder of results.json, segments.json (every segment), index.html, audio and spectrograms"}
    )
    split: str = field(default="dev", metadata={"help": "split of the corpus, which the vocoder was not trained on"})
    num_samples: int = field(default=20, metadata={"help": "segments drawn from it by seed"})
    recogniser: str = field(
        default="none",
        metadata={
            "help": "speech recogniser (folder or Hub id) whose error rates on both sides are compared, or none"
        },
    )
    language: str | None = field(
        default=None,
        metadata={
            "help": "language code of that recogniser, if it is prompted with one; default: the one that "
            "it was saved with"
        },
    )
    batch_seconds: float = field(default=240.0, metadata={"help": "speech per batch and process, padding included"})
    num_bootstrap: int = field(default=1000, metadata={"help": "resamples over segments for each interval"})
    seed: int = field(default=42, metadata={"help": "seed of the sample, of the shuffled units and of the resampling"})
    resume: bool = field(default=False, metadata={"help": "keep the result if nothing has changed"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    if not 0 < args.batch_seconds < math.inf:
        raise UserError(f"batch_seconds must be positive and finite, got {args.batch_seconds}")
    for name, least in (("num_samples", 1), ("num_bootstrap", 0)):
        if vars(args)[name] < least:
            raise UserError(f"{name} must be at least {least}, got {vars(args)[name]}")
    inputs = [args.corpus_dir, args.units_dir, args.vocoder, *([] if args.recogniser == "none" else [args.recogniser])]
    results = run_stage(
        args.output_dir, lambda folder: produce(args, folder), config=args, inputs=inputs, resume=args.resume
    )
    if PartialState().is_main_process:
        Console().print(table(results), f"listen to {Path(args.output_dir) / 'index.html'}", sep="\n")
    return results


def produce(args: Arguments, folder: Path) -> dict:
    units = read_units(args.units_dir)
    vocoder = load_model(UnitHifiGanModel, args.vocoder)
    check_same_units(units.identity, args.units_dir, vocoder.config.units or {}, args.vocoder)
    transcriber = (
        None
        if args.recogniser == "none"
        else Transcriber.from_pretrained(args.recogniser, args.language, batch_seconds=args.batch_seconds)
    )
    corpus = sample_rows(load_corpus(args.corpus_dir, args.split), args.num_samples, args.seed)
    segments = resynthesise(
        vocoder, corpus, units_of(units, corpus), folder, seed=args.seed, batch_seconds=args.batch_seconds
    )
    if transcriber is not None:
        hear(segments, transcriber, folder)
    language = transcriber and language_of(transcriber.model)
    results = {**summarise(segments, args.num_bootstrap, args.seed, language), "units": units.identity}
    if PartialState().is_main_process:
        write_json(folder / "segments.json", segments)
        write_json(folder / "results.json", results)
        about = {
            "vocoder": args.vocoder,
            "corpus": f"{args.corpus_dir}, split {args.split}",
            "recogniser": args.recogniser,
            "units": ", ".join(f"{key} {value}" for key, value in units.identity.items()),
        }
        write_page(folder / "index.html", "Speech from acoustic units", about, results, segments)
    return results


if __name__ == "__main__":
    run_recipe(main)
