"""Beams that share the keys and values of what they hear, beside stock transformers, which copies them per beam.

OMP_NUM_THREADS=1 python benchmarks/beam_search.py --size tiny --tokens 32

Stock Whisper and ours have the same random weights and write the same number of tokens. Stock Whisper hears 30 s; ours
hears 30 s, and then the clips at their own length.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import WhisperFeatureExtractor
from transformers.utils import logging

from benchmarks.side_by_side import Work, compare
from benchmarks.synthetic import SIZES, clips, whisper
from hf_components.speech import log_mel
from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.mel_frames import fit_audio_context


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the clips")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens per transcript")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    logging.set_verbosity_error()  # `generate` warns of options given twice

    features = log_mel(WhisperFeatureExtractor(), clips([args.seconds] * args.batch_size))
    window = fit_audio_context(features, 3000)
    stock = whisper(args.size)
    ours = whisper(args.size, DynamicContextWhisper)
    options = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "max_length": None}

    def writes(model, heard: torch.Tensor, num_beams: int = args.num_beams) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            if model is ours:
                ours.set_audio_context("full" if heard is window else "dynamic", features.shape[-1])
            return model.generate(heard, num_beams=num_beams, **options)

        return run

    works = {
        "stock, 30 s": writes(stock, window),
        "stock, 30 s, greedy": writes(stock, window, 1),
        "ours, 30 s": writes(ours, window),
        "ours, own length": writes(ours, features),
        "ours, own length, greedy": writes(ours, features, 1),
    }
    if not torch.equal(works["stock, 30 s"](), works["ours, 30 s"]()):
        print("note: the texts differ, so rounding decided between beams")
    print(
        f"{args.size}, {args.num_beams} beams, batch {args.batch_size}, {features.shape[-1]} mel frames, "
        f"{args.tokens} tokens"
    )
    return compare(
        {name: Work(run, args.batch_size) for name, run in works.items()},
        repeats=args.repeats,
        unit="clip",
        products=[],
    )


if __name__ == "__main__":
    main()
