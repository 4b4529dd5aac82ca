"""Training on short clips at their own length, beside the usual recipe, which pads each to 30 s.

OMP_NUM_THREADS=1 python benchmarks/training_throughput.py --size tiny --trainables lora --profile

Both train the same parameters by the same steps, optimizer included, on clips of 2 to 5 s with random weights. Ours
makes batches of similar length and computes features in the step; the usual recipe has its features computed
beforehand. A share of our batches stays at 30 s (`full_context_fraction`). The throughput includes its cost, for the
fractions of the recipes' configurations and for others.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import peft
import torch
import yaml
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

from benchmarks.side_by_side import Work, compare
from benchmarks.synthetic import SIZES, clips, transcript, whisper
from hf_components.asr import Whisper
from hf_components.training import FULL_CONTEXT_FRAMES, DurationBatchSampler, Masks, SpeechCollator
from hf_components.whisper import DynamicContextWhisper

ROOT = Path(__file__).parents[1]
SECONDS = (2, 5)
FRACTIONS = (0, 0.03, 0.05, 0.1)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument(
        "--trainables",
        choices=["lora", "full"],
        default="lora",
        help="LoRA of rank 8 above the middle of the encoder, as for experts, or all parameters",
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=4, help="short batches per round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args(argv)

    durations = np.linspace(*SECONDS, args.batches * args.batch_size)
    items = [
        {"id": str(i), "epoch": 0, "full_context": False, "waveform": waveform, "labels": transcript(duration)}
        for i, (waveform, duration) in enumerate(zip(clips(durations), durations, strict=True))
    ]
    buckets = [
        [items[draw.index] for draw in draws]
        for draws in DurationBatchSampler(durations, args.batch_size, seed=0, full_context_fraction=0)
    ]
    processor = SimpleNamespace(feature_extractor=WhisperFeatureExtractor())
    collator = SpeechCollator(Whisper(), processor, masks=Masks(time_masks=2, mel_masks=2))
    mixed = [{**item, "full_context": True} for item in items[:: args.batches]]  # with the lengths of the corpus
    padded = collator(mixed)

    ours = Training(whisper(args.size, DynamicContextWhisper), args.trainables)
    usual = Training(whisper(args.size), args.trainables)
    works = {
        "clips at their length": Work(lambda: [ours.step(collator(bucket)) for bucket in buckets], units=args.batches),
        "clips at 30 s": Work(lambda: ours.step(collator(mixed))),
        "usual recipe": Work(lambda: usual.step(padded)),
    }
    config = ours.model.config
    positions = args.batch_size * int(100 * sum(SECONDS) / 2) // 2
    print(
        f"{args.size}, batch {args.batch_size}, clips of {SECONDS[0]} to {SECONDS[1]} s, trainables: {args.trainables}"
    )
    results = compare(
        works,
        repeats=args.repeats,
        unit="step",
        profiled=args.profile,
        products=[
            (positions, config.d_model, 4 * config.d_model),
            (args.batch_size * FULL_CONTEXT_FRAMES // 2, config.d_model, 4 * config.d_model),
        ],
    )

    short, full, stock = results.values()
    print("\nfull_context_fraction   throughput against the usual recipe   by CPU time   by matrix products alone")
    shipped = shipped_fractions()
    for fraction in sorted({*FRACTIONS, *shipped.values()}):
        speedups = [
            stock[key] / ((1 - fraction) * short[key] + fraction * full[key])
            for key in ("ratio", "cpu_ratio", "flops")
        ]
        files = [name for name, value in shipped.items() if value == fraction]
        print(f"{fraction:21}   {speedups[0]:35.1f}   {speedups[1]:11.1f}   {speedups[2]:24.1f}   {', '.join(files)}")
        results[f"speedup at {fraction}"] = dict(zip(("ratio", "cpu_ratio", "flops"), speedups, strict=True))
    return results


class Training:
    """A model with its optimizer."""

    def __init__(self, model: WhisperForConditionalGeneration, trainables: str):
        if trainables == "lora":
            first = model.config.encoder_layers // 2
            names = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
            names = [
                f"model.{name}" for name in names if name.startswith("decoder") or int(name.split(".")[2]) >= first
            ]
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, target_modules=names))
        self.model = model.train()
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        self.optimizer.zero_grad()
        self.model(input_features=batch["input_features"], labels=batch["labels"]).loss.backward()
        self.optimizer.step()


def shipped_fractions() -> dict[str, float]:
    configs = ROOT / "recipes" / "configs"
    given = {path: yaml.safe_load(path.read_text()) for path in sorted(configs.glob("*/*.yaml"))}
    given = {
        path: {**values, **values.get("training", {})}.get("full_context_fraction") for path, values in given.items()
    }
    return {path.relative_to(configs).as_posix(): value for path, value in given.items() if value is not None}


if __name__ == "__main__":
    main()
