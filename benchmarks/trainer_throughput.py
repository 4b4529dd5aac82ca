"""Fine-tuning by `finetune_whisper`'s trainer beside stock `Seq2SeqTrainer`, on the same clips of one corpus.

OMP_NUM_THREADS=1 python benchmarks/trainer_throughput.py --corpus data/prepared --base_model models/whisper-tiny.en

Both train all parameters in batches of the same size, after a warm-up of two steps. Ours runs a whole epoch, with its
share of batches at 30 s, and decodes audio and computes features on the way. The stock trainer pads every clip to
30 s, as the usual recipe does, and its features are computed beforehand. `benchmarks/training_throughput.py` shows
where the time goes.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, WhisperForConditionalGeneration

from hf_components.asr import Whisper
from hf_components.checkpoints import load_whisper
from hf_components.speech import load_corpus, sample_rows, waveforms
from hf_components.training import SpeechTrainer, SpeechTrainingArguments, keep_learnable

WARM_UP = 2


class Clock(TrainerCallback):
    """Wall and CPU seconds from the end of the warm-up to the end of training, and the number of steps between."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            self.start = time.perf_counter(), time.process_time()
        self.steps = state.global_step - WARM_UP
        self.end = (time.perf_counter(), time.process_time())

    @property
    def per_step(self) -> tuple[float, float]:
        return tuple((end - start) / self.steps for start, end in zip(self.start, self.end, strict=True))


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="prepared corpus with a split train")
    parser.add_argument("--base_model", default="models/whisper-tiny.en")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--full_context_fraction", type=float, default=0.03, help="0.03: quick.yaml; 0.04: default.yaml"
    )
    parser.add_argument("--stock_steps", type=int, default=12, help="steps of the stock trainer, which are all alike")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        ours = train_ours(args, folder)
        stock = train_stock(args, folder)
    result = {"ratio": stock[0] / ours[0], "cpu_ratio": stock[1] / ours[1]}
    print(
        f"\nper step of {args.batch_size} clips: ours {1000 * ours[0]:.0f} ms, stock {1000 * stock[0]:.0f} ms\n"
        f"throughput of ours against stock: {result['ratio']:.1f}, by CPU time {result['cpu_ratio']:.1f}"
    )
    return result


def train_ours(args: argparse.Namespace, folder: str) -> tuple[float, float]:
    model, processor = load_whisper(args.base_model)
    model.set_audio_context("dynamic")
    corpus = keep_learnable(load_corpus(args.corpus, "train"), model, processor)
    clock = Clock()
    SpeechTrainer(
        model,
        SpeechTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            num_train_epochs=1,
            learning_rate=1e-5,
            time_masks=2,
            mel_masks=2,
            full_context_fraction=args.full_context_fraction,
            save_strategy="no",
            report_to="none",
        ),
        processor,
        corpus,
        callbacks=[clock],
    ).train()
    return clock.per_step


def train_stock(args: argparse.Namespace, folder: str) -> tuple[float, float]:
    _, processor = load_whisper(args.base_model)
    corpus = sample_rows(load_corpus(args.corpus, "train"), (WARM_UP + args.stock_steps) * args.batch_size, seed=0)
    family = Whisper()
    items = []
    for row in corpus:
        inputs = family.inputs(processor, waveforms([row]), full_context=True)
        items.append(
            {"input_features": inputs["input_features"][0], "labels": family.tokenize(processor, row["text"])}
        )

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        labels = [torch.tensor(item["labels"]) for item in batch]
        return {
            "input_features": torch.stack([item["input_features"] for item in batch]),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    clock = Clock()
    Seq2SeqTrainer(
        WhisperForConditionalGeneration.from_pretrained(args.base_model),
        Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=args.batch_size,
            max_steps=WARM_UP + args.stock_steps,
            learning_rate=1e-5,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
        ),
        train_dataset=items,
        data_collator=collate,
        processing_class=processor,
        callbacks=[clock],
    ).train()
    return clock.per_step


if __name__ == "__main__":
    main()
