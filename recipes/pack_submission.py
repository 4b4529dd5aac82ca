"""Pack a speech recogniser for a competition: a zip with the model and a `main.py` that transcribes offline.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/pack_submission.py --config recipes/configs/pack_submission/default.yaml \\
    --model runs/children/model --corpus data/prepared --output submission.zip

--kit sapc2-track1 and --kit sapc2-track2 (streaming) pack for the Speech Accessibility Project Challenge.
"""

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import datasets
import torch
from transformers import PreTrainedModel

from dataset_scripts.demo_children import AGES
from dataset_scripts.demo_sentences import sentences
from dataset_scripts.demo_voices import draw_speaker, random_of, speak
from hf_components.asr import (
    KITS,
    TIME_LIMITS,
    Transcriber,
    estimated_seconds,
    load_packable,
    run_package,
    run_sapc2_package,
    write_package,
    write_sapc2_package,
)
from hf_components.checkpoints import language_of, writes
from hf_components.runtime import (
    LogArguments,
    SeedArguments,
    UserError,
    atomic_write,
    environment,
    flag,
    join_processes,
    of_main,
    parse_arguments,
    run_recipe,
    write_record,
)
from hf_components.scoring import score
from hf_components.speech import TARGETS, WORDS, encode_flac, language_flag, load_corpus, sample_rows, to_ipa

logger = logging.getLogger(__name__)

TRACKS = dict(zip(TARGETS, ("word", "phonetic"), strict=True))  # of the competition, by what a model writes
RATES = dict(zip(TARGETS, ("wer", "cer"), strict=True))


@dataclass
class Arguments(LogArguments, SeedArguments):
    model: str = flag("checkpoint of a Whisper or a CTC model: folder or Hub id", aliases=["--model_path"])
    output: str = flag("zip to write; the report goes beside it as .json", default="submission.zip")
    kit: str = flag(
        "form of the package: drivendata (main.py), or a track of the SAP challenge (class Model), where track 2 "
        "streams with a Whisper",
        default="drivendata",
        choices=("drivendata", *KITS),
    )
    partial_seconds: float = flag(
        "seconds of new audio before the next partial transcript", default=0.6, min=0.1, needs={"kit": "sapc2-track2"}
    )
    context_seconds: float = flag(
        "least audio context of the streaming Whisper; a short one is fast, and bad for weights never trained on it",
        default=10.0,
        min=0.2,
        max=30,
        needs={"kit": "sapc2-track2"},
    )
    track: Literal["word", "phonetic"] | None = flag(
        "track of the competition: its texts are words or IPA; default: what the model writes", default=None
    )
    adapter: str | None = flag("PEFT adapter of that model, merged into the packed weights", default=None)
    language: str | None = language_flag()
    dtype: Literal["float16", "float32"] = flag("type of the packed weights; its WER is measured", default="float16")
    max_new_tokens: int = flag("longest transcript of a Whisper in tokens", default=225, min=1)
    corpus: str | None = flag("prepared corpus (folder or Hub id) to try; default: synthetic voices", default=None)
    split: str = flag("split from which clips are drawn", default="dev", needs="corpus")
    g2p: str = flag("voice of eSpeak NG that makes the IPA of clips that have none", default="en-us", needs="verify")
    max_samples: int = flag("number of clips", default=32, aliases=["--clips"], min=1)
    test_utterances: int | None = flag(
        "utterances of the test set, to estimate the run time", default=None, aliases=["--utterances"], min=1
    )
    hours: float | None = flag(
        "hours of the test set instead, if utterances are unknown",
        default=None,
        above=0,
        needs={"test_utterances": False},
    )
    max_megabytes: float | None = flag("limit of the competition for the zip, in 10^6 bytes", default=None, above=0)
    verify: bool = flag("run the zip in its own process and folder, and compare it with the model", default=True)

    def __post_init__(self):
        if Path(self.output).suffix != ".zip":
            raise ValueError(f"output must name a file that ends in .zip, got {self.output}")


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    join_processes()
    transcriber = load_packable(args.model, args.language, args.adapter, args.max_new_tokens)
    target = writes(transcriber.model)
    if args.track not in (None, TRACKS[target]):
        raise UserError(f"{args.model} writes {target}, which is for the track {TRACKS[target]}, not {args.track}")
    clips = try_clips(args, target) if args.verify else None
    # All processes transcribe. Then the others wait for the result of the main process.
    before = [transcript.text for transcript in transcriber.transcribe_corpus(clips)] if args.verify else []
    return of_main(lambda: pack(args, transcriber, clips, before))


def pack(args: Arguments, transcriber: Transcriber, clips: datasets.Dataset | None, before: list[str]) -> dict:
    """Write the zip, try it, and move it to its place if it works."""
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as unfinished:
        streaming = {"partial_seconds": args.partial_seconds, "context_seconds": args.context_seconds}
        write = partial(write_sapc2_package, kit=args.kit, **streaming) if args.kit in KITS else write_package
        write(unfinished, transcriber, getattr(torch, args.dtype))
        size = unfinished.stat().st_size / 1e6
        if args.max_megabytes is not None and size > args.max_megabytes:
            raise UserError(
                f"the zip has {size:.1f} MB, more than --max_megabytes {args.max_megabytes:g}; pack a smaller "
                "model" + (", or --dtype float16" if args.dtype == "float32" else "")
            )
        verified = verify(args, unfinished, clips, before, transcriber.model) if args.verify else None
        result = {"megabytes": round(size, 1), "verified": verified}
    report = {**result, "config": dataclasses.asdict(args), "environment": environment()}
    write_record(output.with_suffix(".json"), report, [output])
    limit = "" if args.max_megabytes is None else f" of {args.max_megabytes:g} allowed"
    logger.info(
        "%s: %.1f MB%s, %s", output, size, limit, "runs by itself" if args.verify else "not tried (--no_verify)"
    )
    return result


def verify(args: Arguments, package: Path, clips: datasets.Dataset, before: list[str], model: PreTrainedModel) -> dict:
    """Run the package, compare its transcripts with those before packing, and estimate the run time."""
    target = writes(model)
    logger.info(
        "trying the package on %d clips, %s", len(clips), f"of {args.corpus}" if args.corpus else "synthetic ones"
    )
    run = partial(run_sapc2_package, kit=args.kit) if args.kit in KITS else run_package
    field = {} if args.kit in KITS else {"field": model.config.submission["field"]}
    after, report = run(package, clips, **field)
    references = clips["text"][:]
    rates = {
        name: score(texts, references, num_bootstrap=0, language=language_of(model), target=target)[RATES[target]]
        for name, texts in (("before", before), ("packed", after))
    }
    different = sum(a != b for a, b in zip(before, after, strict=True))
    rate = RATES[target]
    is_worse = rates["packed"] > rates["before"]
    tell = logger.warning if is_worse else logger.info
    tell(
        "packed as %s, %d of %d transcripts differ: %s %.1f %% before, %.1f %% packed%s",
        args.dtype,
        different,
        len(after),
        rate.upper(),
        100 * rates["before"],
        100 * rates["packed"],
        "; if that matters, pack --dtype float32" if is_worse and args.dtype == "float16" else "",
    )
    seconds = estimated_seconds(report, args.test_utterances, args.hours)
    gpu = environment()["gpu"]
    if seconds is not None:
        logger.info(
            "a test set of %s takes about %.0f minutes on %s",
            f"{args.test_utterances} utterances" if args.test_utterances else f"{args.hours:g} hours",
            seconds / 60,
            gpu or "the CPU of this machine",
        )
        if seconds > TIME_LIMITS.get(args.kit, seconds):
            text = "this is more than the %d s that the challenge allows; pack a smaller model"
            logger.warning(text, TIME_LIMITS[args.kit])
    return {**report, rate: rates, "different": different, "estimated_seconds": seconds, "device": gpu or "cpu"}


def try_clips(args: Arguments, target: str) -> datasets.Dataset:
    """Draw rows of the corpus; without one, make sentences by the demo voices, a share of each age.

    Args:
        target: what the texts of the rows shall be, words or IPA.
    """
    if args.corpus:
        corpus = load_corpus(args.corpus, args.split, target=target, g2p=args.g2p)
        return sample_rows(corpus, args.max_samples, args.seed)
    texts = sentences("Dev", random_of(args.seed))
    rows = [
        {
            "id": f"{age}-{number}",
            "audio": {"bytes": encode_flac(samples / 32768, rate), "path": None},
            "text": text if target == WORDS else to_ipa([text], args.g2p)[0],
            "speaker_id": age,
            "group": age,
            "duration": len(samples) / rate,
        }
        for age, voices in AGES.items()
        for number, (text, samples, rate) in enumerate(
            speak(
                draw_speaker(args.seed, "Dev", age, voices, 0),
                voices,
                islice(texts, -(-args.max_samples // len(AGES))),
                args.seed,
            )
        )
    ]
    return datasets.Dataset.from_list(rows[: args.max_samples])


if __name__ == "__main__":
    run_recipe(main)
