"""Cost of a training step and of encoding with an audio context of 30 s and with the clip's own length.

python benchmarks/audio_context.py --seconds 4 --batch_size 8

Both run in turn in one process, with random weights of Whisper tiny's size. The result is the ratio of medians.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor

from hf_components.speech import log_mel
from hf_components.whisper import MoeWhisperConfig, MoeWhisperForConditionalGeneration

FULL = 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the clips")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="tokens per transcript")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    torch.manual_seed(0)
    model = MoeWhisperForConditionalGeneration(
        MoeWhisperConfig(**WhisperConfig(vocab_size=51864).to_dict() | {"num_experts": 4, "shared_expert": True})
    )
    model.train_only(experts=True, router=True)
    clips = list(
        np.random.default_rng(0).normal(0, 0.1, (args.batch_size, int(16_000 * args.seconds))).astype(np.float32)
    )
    labels = torch.randint(0, 50_000, (args.batch_size, args.tokens))
    extractor = WhisperFeatureExtractor()

    contexts = {"clip": None, "30 s": FULL}
    for name, work in (
        ("features", lambda frames: log_mel(extractor, clips, frames)),
        ("training step", lambda frames: step(model, log_mel(extractor, clips, frames), labels)),
        ("encoding", lambda frames: encode(model, log_mel(extractor, clips, frames))),
    ):
        times = {context: [] for context in contexts}
        for repeat in range(args.repeats + 1):
            for context, frames in contexts.items():
                start = time.perf_counter()
                work(frames)
                if repeat:  # the first repeat is a warm-up
                    times[context].append(time.perf_counter() - start)
        clip, full = (statistics.median(times[context]) for context in contexts)
        print(f"{name:14} clip {1000 * clip:7.0f} ms   30 s {1000 * full:7.0f} ms   ratio {full / clip:.1f}")


def step(model: MoeWhisperForConditionalGeneration, features: torch.Tensor, labels: torch.Tensor) -> None:
    model.train()
    model(features, labels=labels).loss.backward()
    model.zero_grad()


@torch.inference_mode()
def encode(model: MoeWhisperForConditionalGeneration, features: torch.Tensor) -> None:
    model.eval()
    model.get_encoder()(features)


if __name__ == "__main__":
    main()
