"""Transcribe recordings, a manifest, or a split of a corpus, with any speech recogniser: one line of JSON each.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/transcribe.py --config recipes/configs/transcribe/default.yaml \\
    --model runs/children/model --input_jsonl data/test.jsonl --output_jsonl runs/predictions.jsonl

Recordings, or folders of them, may stand first: `transcribe.py my_recordings --model ...`; their paths are the ids.
Run it again after a stop, and it continues. Run it again after you fixed unreadable files, and it transcribes those.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from dataset_scripts.audio_folder import named_recordings
from dataset_scripts.manifest_recordings import read_recordings
from hf_components.asr import (
    CHOICES,
    Files,
    LanguageModel,
    Recordings,
    Rows,
    Transcriber,
    check_same_ids,
    read_finished,
    read_submission_format,
    transcribe_to_file,
)
from hf_components.checkpoints import voice_folder
from hf_components.runtime import (
    ResumeArguments,
    UserError,
    fingerprint,
    flag,
    join_processes,
    parse_arguments,
    parse_pairs,
    require_apart,
    run_recipe,
)
from hf_components.scoring import read_transcripts, write_hypotheses
from hf_components.speech import language_flag, load_corpus, sample

logger = logging.getLogger(__name__)

# Flags on which the texts depend, beside the inputs.
SETTINGS = (
    "engine",
    "audio_dirs",
    "fields",
    "split",
    "language",
    "audio_context",
    "mixture",
    "dtype",
    "num_beams",
    "max_new_tokens",
    "gguf_file",
    "llm_choices",
)


@dataclass
class Arguments(ResumeArguments):
    model: str = flag("speech recogniser of any supported family: folder or Hub id", aliases=["--model_path"])
    output_jsonl: str = flag("file to write: utterance_id and orthographic_text, one line per utterance")
    hypotheses_csv: str | None = flag(
        "write the texts also as the CSV that the SAP challenge scores: id and raw_hypos", default=None
    )
    audio: list[str] | None = flag(
        "recordings, or folders of them; an id is the name of a file, or its path in the folder", default=None
    )
    input_jsonl: str | None = flag("manifest; its transcripts are ignored", default=None)
    audio_dirs: list[str] | None = flag(
        "folders to search for the manifest's audio; default: its own folder and sub-folders",
        default=None,
        needs="input_jsonl",
    )
    fields: list[str] | None = flag(
        "OURS=THEIRS for every field that has another name in the manifest, such as audio_path=file",
        default=None,
        needs="input_jsonl",
    )
    corpus: str | None = flag("prepared corpus: folder or Hub id", default=None)
    split: str = flag("split of the corpus", default="dev", needs="corpus")
    max_samples: int | None = flag("most recordings, drawn at random; default: all", default=None, min=1)
    submission_format: str | None = flag(
        "submission_format.jsonl: its order is that of the lines, its ids must be those of the input", default=None
    )
    engine: Literal["transformers", "ctranslate2"] = flag(
        "what runs the model; ctranslate2 for an output of export_ctranslate2 --audio_context dynamic, on the CPU",
        default="transformers",
    )
    adapter: list[str] | None = flag("PEFT LoRA of the model: folder or Hub id; several: merged in turn", default=None)
    voice: str | None = flag(
        "voice of one person over the model: name, or output of personalise_whisper", default=None
    )
    language: str | None = language_flag()
    audio_context: Literal["dynamic", "full"] | None = flag(
        "audio context of a Whisper: as long as the clip, or always 30 s; default: as it was trained", default=None
    )
    mixture: Literal["weights", "merge", "logits", "choose"] | None = flag(
        "how a MoE-Whisper uses its experts, see docs/how_it_works.md; default: as it was saved", default=None
    )
    llm_model: str | None = flag(
        "LLM that chooses among the most probable texts of a CTC model, by their probabilities: folder or Hub id",
        default=None,
    )
    gguf_file: str | None = flag("file name of an LLM in GGUF format", default=None, needs="llm_model")
    llm_choices: int = flag("number of texts among which the LLM chooses", default=CHOICES, min=2, needs="llm_model")
    dtype: str = flag("float32, float16, bfloat16, or auto: half precision on a GPU, else float32", default="auto")
    batch_seconds: float = flag(
        "seconds of audio per batch, padding included; a clip counts as 30 s for a stock Whisper",
        default=240.0,
        above=0,
    )
    num_beams: int | None = flag(
        "beams of autoregressive models; 1 is greedy; default: as saved with the model, 5 for a Whisper",
        default=None,
        min=1,
    )
    max_new_tokens: int = flag("longest text of 30 s of audio, in tokens", default=225, min=1)
    num_workers: int = flag("helper processes that decode audio", default=0, min=0)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__, leading="audio")
    check(args)
    if args.voice is not None:
        args.voice = str(voice_folder(args.voice, args.model))
    join_processes()
    output = Path(args.output_jsonl)
    source = args.input_jsonl or args.corpus
    identity = identity_of(args, source)
    recordings = recordings_of(args)
    finished = read_finished(output, identity, recordings) if args.resume else None
    if finished is not None:
        logger.info("%s is complete, skipped", output)
        write_csv(args)
        return finished

    ids_as_given = {} if args.input_jsonl is None else recordings.ids_as_given
    order = recordings.ids
    if args.submission_format is not None:
        ids_as_given = read_submission_format(args.submission_format)
        order = list(ids_as_given)
        check_same_ids(order, args.submission_format, recordings.ids, source or "--audio")
    metrics = transcribe_to_file(
        transcriber_of(args),
        recordings,
        output,
        order=order,
        identity=identity,
        resume=args.resume,
        ids_as_given=ids_as_given,
    )
    write_csv(args)
    tell(metrics, output)
    return metrics


def identity_of(args: Arguments, source: str | None) -> dict:
    """What the transcripts depend on beside the recordings."""
    inputs = [args.model, *(args.adapter or []), args.voice, args.llm_model, source, args.submission_format]
    return {
        "inputs": {path: fingerprint(path) for path in inputs if path is not None},
        "settings": {name: vars(args)[name] for name in SETTINGS},
    }


def transcriber_of(args: Arguments) -> Transcriber:
    transcriber = Transcriber.from_pretrained(
        args.model,
        args.language,
        adapter=args.adapter or (),
        voice=args.voice or (),
        audio_context=args.audio_context,
        mixture=args.mixture,
        engine=args.engine,
        dtype=args.dtype,
        batch_seconds=args.batch_seconds,
        num_beams=args.num_beams,
        max_new_tokens=args.max_new_tokens,
        num_workers=args.num_workers,
    )
    if args.llm_model is not None:
        transcriber.choose_by(LanguageModel.from_pretrained(args.llm_model, args.gguf_file), args.llm_choices)
    return transcriber


def tell(metrics: dict, output: Path) -> None:
    """Log how long it took, and what was read and kept."""
    if metrics["seconds_by_part"]:
        parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in metrics["seconds_by_part"].items())
        logger.info("where the time of this run went: %s", parts)
    logger.info(
        "%d transcripts in %s, %d of them empty because unreadable, %d kept from an earlier run; %.1f s for %.1f s of "
        "audio, real-time factor %s",
        metrics["utterances"],
        output,
        *(metrics[name] for name in ("failed", "kept", "seconds", "audio_seconds", "real_time_factor")),
    )


def recordings_of(args: Arguments) -> Recordings:
    if args.audio is not None:
        recordings = Files(named_recordings(args.audio))
    elif args.corpus is not None:
        recordings = Rows(load_corpus(args.corpus, args.split, shared_speakers=True))
    else:
        recordings = read_recordings(args.input_jsonl, args.audio_dirs, parse_pairs("fields", args.fields) or {})
    if args.max_samples is None:
        return recordings
    chosen = sample(recordings.ids, [""] * len(recordings.ids), max_samples=args.max_samples)
    return recordings.without(set(recordings.ids) - {recordings.ids[index] for index in chosen})


def write_csv(args: Arguments) -> None:
    if args.hypotheses_csv is not None and PartialState().is_main_process:
        write_hypotheses(args.hypotheses_csv, read_transcripts(args.output_jsonl))


def check(args: Arguments) -> None:
    """Raise UserError for flags that contradict each other."""
    given = [name for name in ("audio", "input_jsonl", "corpus") if getattr(args, name) is not None]
    if len(given) != 1:
        raise UserError(f"give one of --audio, --input_jsonl and --corpus, got {' and '.join(given) or 'none'}")
    if args.max_samples is not None and args.submission_format is not None:
        raise UserError("--submission_format wants all recordings, but --max_samples takes some; leave one out")
    if Path(args.output_jsonl).is_dir():
        raise UserError(f"output_jsonl must name a file, and {args.output_jsonl} is a folder; name a file in it")
    read = [*(args.audio or []), *filter(None, (args.input_jsonl, args.submission_format))]
    require_apart(args.output_jsonl, read, flag="--output_jsonl")
    if args.hypotheses_csv is not None:
        require_apart(args.hypotheses_csv, read, flag="--hypotheses_csv")
        if Path(args.hypotheses_csv).resolve() == Path(args.output_jsonl).resolve():
            raise UserError("--output_jsonl and --hypotheses_csv are one file; choose another --hypotheses_csv")


if __name__ == "__main__":
    run_recipe(main)
