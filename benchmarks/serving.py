"""An export that sees clips at their own length, beside faster-whisper and transformers at 30 s, on the CPU.

OMP_NUM_THREADS=2 python benchmarks/serving.py --model models/whisper-tiny.en --data my_clips

Clips of at most 5 s, from audio files to text. All ways have the same weights, the same number of beams, no word times
and no fallback to higher temperatures; all texts are normalised in the same way. faster-whisper takes one file at a
time, and so does its `BatchedInferencePipeline`; `--batches` adds a row of what batches of files alone bring.
WER is of all clips, times are of the first `--timed_clips`. Takes any Whisper of this project, also one that
recipes/merge_moe_whisper.py merged. The data are a folder as recipes/prepare_corpus.py reads it, a prepared corpus, or
a folder that holds several of these. It needs `pip install "underheard[export]"`.

The last line is JSON: `speedup_over_faster_whisper` is the median over rounds of the ratio of times, and
`wer_difference` the WER of our export minus that of faster-whisper, in points.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from faster_whisper import WhisperModel
from transformers.utils.logging import set_verbosity_error

from benchmarks.side_by_side import Work, compare
from hf_components.asr import Transcriber
from hf_components.checkpoints import ExportedWhisper, export_whisper, load_whisper, transcribe_exported
from hf_components.runtime import UserError
from hf_components.scoring import score
from hf_components.speech import decode, load_corpus, log_mel
from recipes import prepare_corpus
from recipes.export_ctranslate2 import LEAST_UNTRAINED

ROOT = Path(__file__).parents[1]
CORPORA = Path(os.environ.get("UNDERHEARD_CORPORA", ROOT.parent / "shared" / "corpora"))
FASTER, BATCHES = "faster-whisper, 30 s, {}", "CTranslate2, 30 s, batches, {}"
OURS, STOCK, SHORT = "our export, own length, {}", "transformers, 30 s, batches", "transformers, own length, batches"


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "models" / "whisper-tiny.en"), help="Whisper: folder or Hub id")
    parser.add_argument("--data", default=str(CORPORA), help="folder of clips with transcripts, or prepared corpus")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--language", default="en")
    parser.add_argument("--longest", type=float, default=5.0, help="seconds")
    parser.add_argument("--clips", type=int, default=100, help="of each corpus at most, drawn by a fixed seed")
    parser.add_argument("--timed_clips", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--min_audio_context", type=int, help="mel frames; default: as trained, else 600")
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--num_beams", type=int, default=1)
    parser.add_argument("--max_new_tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", action="store_true", help="also CTranslate2 at 30 s in batches")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    set_verbosity_error()  # `generate` warns of options given twice
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        return measure(args, Path(folder))


def measure(args: argparse.Namespace, folder: Path) -> dict:
    files, references = clips_of(args, folder)
    timed = [files[i] for i in np.random.default_rng(0).permutation(len(files))[: args.timed_clips]]
    ways, of_export = ways_of(args, folder)
    written = {name: way(files) for name, way in ways.items() if name.startswith((FASTER[:14], OURS[:10]))}
    written |= {name: [] for name in ways if name not in written}
    works = {
        name: Work(lambda way=way: way(timed), len(timed))
        for name, way in sorted(ways.items(), key=first_transformers)
    }
    found = compare(works, repeats=args.repeats, unit="clip", products=[])

    ours, faster = (name.format(args.quantization) for name in (OURS, FASTER))
    normalised = {"num_bootstrap": 0, "language": args.language}
    wer = {name: 100 * score(texts, references, **normalised)["wer"] for name, texts in written.items() if texts}
    print(f"\nWER (%) of {len(files)} clips")
    for name, value in wer.items():
        print(f"{name:44} {value:6.2f}")
    result = {
        "speedup_over_faster_whisper": speedup(works[ours], works[faster]),
        "wer_difference": round(wer[ours] - wer[faster], 3),
        "speedup_over_transformers": speedup(works[ours], works[STOCK]),
        "wer": {name: round(value, 2) for name, value in wer.items()},
        "milliseconds_per_clip": {name: round(1000 * way["seconds"], 1) for name, way in found.items()},
        "clips": len(files),
        "timed_clips": len(timed),
        "min_audio_context": of_export.model.config.min_audio_context,
        "seconds_by_part": of_export.seconds_by_part(),
        "num_beams": args.num_beams,
        "threads": args.threads,
    }
    print(json.dumps(result))
    return result


def first_transformers(way: tuple[str, Callable]) -> bool:
    return way[0] != STOCK  # ratios of the table are to the first


def speedup(ours: Work, other: Work) -> float:
    return round(statistics.median(theirs / own for own, theirs in zip(ours.wall, other.wall, strict=True)), 2)


def ways_of(
    args: argparse.Namespace, folder: Path
) -> tuple[dict[str, Callable[[list[Path]], list[str]]], Transcriber]:
    """Functions from files to texts by name, and the transcriber of our export."""
    model, processor = load_whisper(args.model, args.language)
    least = args.min_audio_context or (
        model.min_audio_context if model.audio_context == "dynamic" else LEAST_UNTRAINED
    )
    export_whisper(model, processor, folder / "full", args.quantization)
    short = {"audio_context": "dynamic", "min_audio_context": least}
    export_whisper(model, processor, folder / "short", args.quantization, **short)
    served = WhisperModel(str(folder / "full"), device="cpu", compute_type=args.quantization, cpu_threads=args.threads)
    options = {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size}
    of_torch = Transcriber(model, processor, least_risk=False, **options)
    exported = ExportedWhisper(folder / "short", args.language)
    of_export = Transcriber(exported, exported.processor, **options)

    def texts_of(transcriber: Transcriber, files: list[Path]) -> list[str]:
        return [transcript.text for transcript in transcriber.transcribe_files(files)]

    def in_context(context: str, files: list[Path]) -> list[str]:
        model.set_audio_context(context, least)
        return texts_of(of_torch, files)

    def in_faster_whisper(files: list[Path]) -> list[str]:
        return [one_file(served, file, args) for file in files]

    def in_batches(files: list[Path]) -> list[str]:
        texts = []
        for start in range(0, len(files), args.batch_size):
            clips = [decode(file) for file in files[start : start + args.batch_size]]
            features = log_mel(processor.feature_extractor, clips, processor.feature_extractor.nb_max_frames)
            texts += transcribe_exported(folder / "full", processor, features, args.max_new_tokens, args.num_beams)
        return texts

    batched = {BATCHES.format(args.quantization): in_batches} if args.batches else {}
    return {
        FASTER.format(args.quantization): in_faster_whisper,
        **batched,
        OURS.format(args.quantization): lambda files: texts_of(of_export, files),
        STOCK: lambda files: in_context("full", files),
        SHORT: lambda files: in_context("dynamic", files),
    }, of_export


def one_file(served: WhisperModel, file: Path, args: argparse.Namespace) -> str:
    segments, _ = served.transcribe(
        str(file),
        beam_size=args.num_beams,
        temperature=0,
        without_timestamps=True,
        language=args.language,
        condition_on_previous_text=False,
        max_new_tokens=args.max_new_tokens,
    )
    return " ".join(segment.text.strip() for segment in segments)


def clips_of(args: argparse.Namespace, folder: Path) -> tuple[list[Path], list[str]]:
    """Audio files and their transcripts."""
    files = []
    references = []
    for number, corpus in enumerate(corpora_in(Path(args.data), args, folder)):
        rows = load_corpus(corpus, args.split)
        chosen = np.random.default_rng(0).permutation(len(rows)).tolist()
        for i in [i for i in chosen if rows[i]["duration"] <= args.longest][: args.clips]:
            row = rows[i]
            file = folder / f"{number}_{i}{Path(row['audio']['path'] or '.flac').suffix}"
            file.write_bytes(row["audio"]["bytes"])
            files.append(file)
            references.append(row["text"])
    return files, references


def corpora_in(data: Path, args: argparse.Namespace, folder: Path) -> list[str]:
    """Prepared corpora of a folder; what is not prepared is prepared in `folder`."""
    if any(data.glob("data/*.parquet")):
        return [str(data)]
    builder = builder_of(data)
    places = [data] if builder else sorted(place for place in data.glob("*") if builder_of(place))
    if not places:
        raise UserError(f"{data} has no clips with transcripts; give --data a corpus, see recipes/README.md")
    prepared = []
    for place in places:
        output = folder / f"corpus_{place.name}"
        words = [f"--builder={builder_of(place)}", f"--data_dir={place}", f"--output_dir={output}", "--num_proc=1"]
        prepare_corpus.main(words + (["--val_ratio=0.5"] if builder_of(place) == "jsonl_manifest" else []))
        prepared.append(str(output))
    return prepared


def builder_of(folder: Path) -> str | None:
    if any((folder / split).is_dir() for split in ("Dev", "dev")):
        return "speaker_json"
    return "jsonl_manifest" if any(folder.glob("train*.jsonl")) else None


if __name__ == "__main__":
    main()
