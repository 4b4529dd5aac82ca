"""A training step of a wav2vec2 by LoRA beside one of all its weights: time, peak memory, size of the saved weights.

OMP_NUM_THREADS=1 python benchmarks/lora_and_full.py --batch_size 4 --seconds 5

Both are set up the same as in `finetune_wav2vec2_lora`, with frozen convolutions and random weights of the size of
wav2vec2-base. Peak memory is that of a separate process without its memory after the imports; on a GPU, it is the
memory that PyTorch has allocated.
"""

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from benchmarks.side_by_side import Work, compare
from hf_components.asr import Ctc, family_of
from hf_components.speech import SAMPLING_RATE
from hf_components.training import LoraArguments, add_lora, save_lora

SIZES = {
    "base": {},
    "tiny": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "conv_dim": (32,) * 7,
    },
}
LETTERS_PER_SECOND = 12
METHODS = ("full", "lora", "lora_with_feed_forward")


class Training:
    """A model set up by one of `METHODS`, with its optimizer."""

    def __init__(self, method: str, size: str):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES[size]))
        family_of(model).prepare_for_training(model)
        self.parameters = model.num_parameters()
        self.lora = None
        if method != "full":
            targets = None if method == "lora" else [*Ctc.lora_layers, "intermediate_dense", "output_dense"]
            self.lora = add_lora(model, LoraArguments(target_modules=targets))
        self.model = model.to(self.device).train()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)

    def step(self, batch_size: int, seconds: float) -> float:
        waveforms = torch.randn(batch_size, round(seconds * SAMPLING_RATE), device=self.device)
        labels = torch.randint(5, 30, (batch_size, round(seconds * LETTERS_PER_SECOND)), device=self.device)
        self.optimizer.zero_grad()
        loss = self.model(waveforms, labels=labels).loss
        loss.backward()
        self.optimizer.step()
        return loss.item()  # waits for a GPU

    def saved_bytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            if self.lora is None:
                self.model.save_pretrained(folder)
            else:
                save_lora(self.lora, Path(folder))
            return sum(file.stat().st_size for file in Path(folder).iterdir())


def peak_megabytes(method: str, size: str, batch_size: int, seconds: float) -> float:
    """Peak memory of two steps, measured in a separate process."""
    before = _most_resident()
    training = Training(method, size)
    for _ in range(2):
        training.step(batch_size, seconds)
    if training.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return _most_resident() - before


def _most_resident() -> float:
    """Peak memory of this process in MiB. `getrusage` would start with the memory of its parent."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)

    memory = {}
    for method in METHODS:
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            memory[method] = alone.apply(peak_megabytes, (method, args.size, args.batch_size, args.seconds))
    trainings = {method: Training(method, args.size) for method in METHODS}
    config = trainings["full"].model.config
    print(f"{args.size}, {args.batch_size} clips of {args.seconds:g} s")
    results = compare(
        {
            method: Work(lambda training=training: training.step(args.batch_size, args.seconds))
            for method, training in trainings.items()
        },
        repeats=args.repeats,
        unit="step",
        products=[(args.batch_size * int(50 * args.seconds), config.hidden_size, config.intermediate_size)],
    )
    print(f"\n{'':24}{'trained':>12}{'of all':>9}{'saved (MB)':>12}{'peak memory (MiB)':>19}{'ratio':>7}")
    for method, training in trainings.items():
        trained = sum(parameter.numel() for parameter in training.trained)
        saved = training.saved_bytes()
        print(
            f"{method:24}{trained:12,}{trained / training.parameters:9.2%}{saved / 1e6:12.2f}{memory[method]:19.0f}"
            f"{memory[method] / memory['full']:7.2f}"
        )
        results[method] |= {
            "trained": trained,
            "share": trained / training.parameters,
            "saved_bytes": saved,
            "peak_megabytes": memory[method],
        }
    return results


if __name__ == "__main__":
    main()
