"""Predicted memory of training steps: a table for all sizes of Whisper, or beside what real steps take.

python benchmarks/training_memory.py --sizes tiny small
python benchmarks/training_memory.py --measure

The table is for a GPU, bfloat16, gradient checkpointing, and clips of 30 s with 128 tokens. `--measure` takes real
steps in float32 on the CPU in three cases, each in a process of its own. It counts what torch's allocator gives out,
and how much the process grows. glibc returns freed blocks to the system if they are at least 64 KiB, so that gaps
between blocks do not count.
"""

import argparse
import os
import subprocess
import sys

import psutil
import torch
from torch.profiler import ProfilerActivity, profile

from hf_components.moe import ExpertArguments, loss_of_labels, loss_of_routing, mixture
from hf_components.runtime import peak_memory_gib
from hf_components.training import (
    GPU_SIZES,
    TrainingStep,
    finetuned,
    known_config,
    largest_batches,
    loss_of_texts,
    predict_peak,
    ready,
    take_step,
)

GIB = 2**30
SIZES = ("tiny", "base", "small", "medium", "large-v3-turbo", "large-v3")
CASES = {  # model, what is trained, step, loss
    "Whisper tiny, all weights, 2 clips of 30 s": (
        lambda: finetuned(known_config("openai/whisper-tiny")),
        TrainingStep(batch_size=2),
        loss_of_texts,
    ),
    "Whisper base, 4 experts and router, 2 clips of 10 s": (
        lambda: mixture(
            known_config("openai/whisper-base"), ExpertArguments(), experts=4, train_router=True, routing="soft"
        ),
        TrainingStep(batch_size=2, seconds=10, tokens=64),
        loss_of_routing,
    ),
    "wav2vec2-base, LoRA, 2 clips of 5 s": (
        lambda: finetuned(known_config("facebook/wav2vec2-base-960h"), lora_rank=8),
        TrainingStep(batch_size=2, seconds=5),
        loss_of_texts,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--measure", action="store_true", help="three real steps instead of the table")
    parser.add_argument("--case", choices=CASES, help="one of them in this process")
    args = parser.parse_args()
    if args.case:
        measure(args.case)
    elif args.measure:
        print("case | predicted GiB | allocated GiB | growth of the process GiB", flush=True)
        for case in CASES:
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
            subprocess.run([sys.executable, __file__, "--case", case], env=environment, check=True)
    else:
        print(f"model | trained | largest batch for {GPU_SIZES} GB", flush=True)
        for size in args.sizes:
            tabulate(size)


def tabulate(size: str) -> None:
    config = known_config(f"openai/whisper-{size}")
    lora = ExpertArguments(lora_rank=16)
    for what, build, loss in (
        ("all weights", finetuned(config), loss_of_texts),
        ("a LoRA", mixture(config, lora, experts=1), loss_of_labels),
        ("8 experts and router", mixture(config, lora, experts=8, train_router=True, routing="soft"), loss_of_routing),
    ):
        step = TrainingStep(precision="bf16", gradient_checkpointing=True)
        print(f"{size} | {what} | {largest_batches(build, step, GPU_SIZES, loss)}", flush=True)


def measure(case: str) -> None:
    make, step, loss = CASES[case]
    build = make()
    predicted = predict_peak(build, step, loss) / GIB
    before = psutil.Process().memory_info().rss / GIB
    model = build()
    optimizer = ready(model, step)
    storages = [value.untyped_storage() for value in held(model, optimizer)]
    kept = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())  # tied weights once
    take_step(model, step, optimizer, loss)
    grown = peak_memory_gib() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_step(model, step, optimizer, loss)
    print(f"{case} | {predicted:.3f} | {(kept + peak_allocated(profiler)) / GIB:.3f} | {grown:.3f}", flush=True)


def held(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors that are there between steps."""
    states = (value for state in optimizer.state.values() for value in state.values())
    return [*model.parameters(), *model.buffers(), *states]


def peak_allocated(profiler: profile) -> int:
    """The most bytes that torch's allocator had given out since the start of the profile."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


if __name__ == "__main__":
    main()
