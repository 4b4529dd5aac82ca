"""Embedding of a corpus in batches of the clips' own length, beside a loop over clips padded to 30 s.

OMP_NUM_THREADS=1 python benchmarks/embedding_extraction.py --size tiny --profile

The loop calls the feature extractor and the whole encoder of stock Whisper clip by clip, and takes the mean. Ours
stops at the layer that a router reads (by default the middle of the encoder). Both include log-mel features. Clips
have 2 to 5 s, weights are random.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from benchmarks.side_by_side import Work, compare
from benchmarks.synthetic import SIZES, clips, whisper
from hf_components.moe import embed_batch
from hf_components.speech import duration_batches, log_mel
from hf_components.training import FULL_CONTEXT_FRAMES
from hf_components.whisper import DynamicContextWhisper

SECONDS = (2, 5)


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args(argv)

    durations = np.linspace(*SECONDS, args.clips)
    waveforms = clips(durations)
    extractor = WhisperFeatureExtractor()
    ours = whisper(args.size, DynamicContextWhisper).model.encoder
    stock = whisper(args.size).model.encoder
    layers = SIZES[args.size]["layers"]
    looped = waveforms[:: max(1, args.clips // 4)]  # one clip from each quarter of the lengths

    def in_batches(layer: int) -> list[np.ndarray]:
        return [
            vector
            for indices in duration_batches(durations.tolist(), args.batch_size)
            for vector in embed_batch(ours, log_mel(extractor, [waveforms[i] for i in indices]), layer, "mean")
        ]

    def one_by_one() -> list[torch.Tensor]:
        features = [
            extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features for waveform in looped
        ]
        return [stock(one).last_hidden_state.mean(1) for one in features]

    works = {
        f"in batches, up to layer {layers // 2}": Work(lambda: in_batches(layers // 2), args.clips),
        f"in batches, up to layer {layers}": Work(lambda: in_batches(layers), args.clips),
        "one by one, padded to 30 s": Work(one_by_one, len(looped)),
    }
    d_model = SIZES[args.size]["d_model"]
    positions = args.batch_size * int(100 * sum(SECONDS) / 2) // 2
    print(f"{args.size}, batch {args.batch_size}, clips of {SECONDS[0]} to {SECONDS[1]} s")
    return compare(
        works,
        repeats=args.repeats,
        unit="clip",
        profiled=args.profile,
        products=[(positions, d_model, 4 * d_model), (FULL_CONTEXT_FRAMES // 2, d_model, 4 * d_model)],
    )


if __name__ == "__main__":
    main()
