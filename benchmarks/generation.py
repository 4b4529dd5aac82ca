"""Cost of experts in decoding: greedy generation of a fixed number of tokens, beside plain Whisper.

OMP_NUM_THREADS=1 python benchmarks/generation.py --size tiny --seconds 5 --tokens 32 --profile

All have the same audio context and random weights. Eight experts and a shared one lie above the middle of the encoder.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import WhisperFeatureExtractor
from transformers.utils import logging

from benchmarks.side_by_side import Work, compare
from benchmarks.synthetic import SIZES, clips, whisper
from hf_components.speech import log_mel
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration

ROUTINGS = {
    "top-1": {"routing": "hard"},
    "top-2, weights": {"routing": "top_k", "mixture": "weights"},
    "top-2, logits": {"routing": "top_k", "mixture": "logits"},
}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seconds", type=float, default=5.0, help="audio context")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens per transcript")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_experts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args(argv)
    logging.set_verbosity_error()  # `generate` warns of options given twice

    features = log_mel(WhisperFeatureExtractor(), clips([args.seconds] * args.batch_size))
    context = {"audio_context": "dynamic", "min_audio_context": features.shape[-1]}
    plain = whisper(args.size, DynamicContextWhisper)
    plain.set_audio_context(**context)
    moe = MoeWhisperForConditionalGeneration.from_base(
        plain, num_experts=args.num_experts, shared_expert=True, **context
    )
    for layer in moe.routed_layers().values():
        torch.nn.init.normal_(layer.lora_b, std=0.02)
    with torch.no_grad():
        moe.model.encoder.router.fit_statistics(moe.embed(features))  # else a random router sends all to one expert
        used = moe.route(features).argmax(-1).unique().numel()
    options = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "max_length": None}

    def routed(**fields) -> torch.Tensor:
        with moe.override(**fields):
            return moe.generate(features, **options)

    works = {"plain Whisper": Work(lambda: plain.generate(features, **options))}
    works |= {name: Work(lambda fields=fields: routed(**fields)) for name, fields in ROUTINGS.items()}
    d_model = plain.config.d_model
    positions = args.batch_size * features.shape[-1] // 2
    print(
        f"{args.size}, batch {args.batch_size}, {features.shape[-1]} mel frames, {args.tokens} tokens, "
        f"{args.num_experts} experts, {used} of them the best of some row"
    )
    return compare(
        works,
        repeats=args.repeats,
        unit="batch",
        profiled=args.profile,
        products=[
            (positions, d_model, 4 * d_model),
            (args.batch_size, d_model, d_model),
            (args.batch_size, d_model, plain.config.vocab_size),
            (2 * args.batch_size, d_model, plain.config.vocab_size),
        ],
    )


if __name__ == "__main__":
    main()
