"""Does every training work on this GPU? A few steps of each, in each precision, beside the CPU's float32.

python benchmarks/gpu_acceptance.py --output_dir runs/acceptance

The same steps on the same batches are taken on the CPU first, in float32. On a GPU they follow in float32, bfloat16
and float16; then come flash attention, 4 bits, and two processes if there are two GPUs. Losses may differ from those
of the CPU by 1 % in float32, by 5 % in half precision, and by 15 % in 4 bits. Nothing is random but functions of seed,
epoch and utterance. Memory is the most that tensors took on the GPU, beside what the training itself predicted.

Without a GPU it is shortened: a small random Whisper, in bfloat16 on the CPU, 4 bits, and two processes. What is left
after --minutes is not run. The table is printed, results.json has the same, and the exit code is 1 if anything failed.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import json
import logging
import math
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from accelerate.state import AcceleratorState
from transformers import BitsAndBytesConfig, PreTrainedModel, WhisperConfig, set_seed
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from hf_components.asr import family_of, load_asr
from hf_components.checkpoints import load_processor, load_whisper, save_whisper
from hf_components.runtime import write_json
from hf_components.speech import load_corpus, waveforms
from hf_components.training import LoraArguments, add_lora
from hf_components.whisper import DynamicContextWhisper

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ROOT / "models" / "whisper-tiny.en"
# Layers in 4 bits need multiples of 64 on some CPUs.
SMALL = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
TOLERANCES = {"float32": 0.01, "bf16": 0.05, "fp16": 0.05, "4 bits": 0.15}
FLAGS_OF = {"float32": "no_fp16", "bf16": "bf16", "fp16": "fp16"}
REFERENCE = "reference.json"
TELLS_MEMORY = "hf_components.training.memory_estimate"
STEPS, BATCH = 4, 4
TRAINING = {
    "report_to": "none",
    "disable_tqdm": True,
    "learning_rate": 1e-4,
    "warmup_steps": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "per_device_train_batch_size": BATCH,
}
WHISPER = {**TRAINING, "full_context_fraction": 0.25}
IN_STEPS = {**WHISPER, "max_steps": STEPS}
VOCODER = {
    "epochs": 2,
    "samples_per_epoch": 8,
    "batch_size": BATCH,
    "crop_seconds": 0.5,
    "validation_crops": 4,
    "adversarial_from_epoch": 2,
    "max_samples": 1,
    "report_to": "none",
}
VOICE = {"max_sentences": 3, "max_folds": 2, "voice_marks": 2, "voice_scales": 1}
WHOLE = "fine-tuning, all weights"
TWO = "two processes"
# Cases whose result on the CPU others start from, and its folder among the sources.
KEPT = {"router": "router", "experts": "experts", "joint, weights": "joint", "wav2vec2 from nothing": "wav2vec2"}
Figure = Callable[[dict], float]


@dataclass(frozen=True)
class Case:
    """A training: its recipe with its flags, and where its result has the loss; None: it only has to run."""

    recipe: str
    flags: dict[str, Any]
    figure: Figure | None = lambda result: result["train_loss"]


@dataclass
class Row:
    """What a case did.

    Attributes:
        loss, reference: the last loss, and that of float32 on the CPU.
        peak, predicted: GiB of tensors on the GPU, and what the training predicted.
    """

    case: str
    precision: str
    verdict: str = "ok"
    loss: float | None = None
    reference: float | None = None
    seconds: float | None = None
    peak: float | None = None
    predicted: float | None = None


class NotAvailable(Exception):
    """This machine lacks what a case needs."""


def main(argv: list[str] | None = None) -> list[Row]:
    args = arguments(argv)
    start = time.monotonic()
    on_gpu = torch.cuda.is_available()
    if not args.reference_only:
        shutil.rmtree(args.output_dir, ignore_errors=True)
    if args.model is None:
        args.model = str(OFFLINE if on_gpu else save_small_whisper(sources(args.output_dir)["whisper"]))
    if on_gpu:
        given = sys.argv[1:] if argv is None else argv
        command = [sys.executable, __file__, *given, f"--model={args.model}", "--reference_only"]
        subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    else:
        take_references(args)
    if args.reference_only:
        return []
    references = json.loads((args.output_dir / REFERENCE).read_text())
    rows = []
    for row, run in work(args, references, on_gpu):
        carry_out(row, run, time.monotonic() - start > 60 * args.minutes)
        rows.append(row)
        write_json(args.output_dir / "results.json", [asdict(row) for row in rows])
        shutil.rmtree(scratch(args).parent, ignore_errors=True)
    show(rows)
    return rows


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="made anew")
    parser.add_argument("--model", help="Whisper; default: models/whisper-tiny.en, without a GPU a random one")
    parser.add_argument("--only", nargs="+", help="cases, by a part of their names")
    parser.add_argument("--minutes", type=float, default=10.0, help="no case begins later")
    parser.add_argument("--reference_only", action="store_true", help="what it does first, in a process of its own")
    return parser.parse_args(argv)


def recipe(name: str, folder: Path, **flags: Any) -> dict:
    """Run a recipe in this process."""
    words = [f"--{flag}={value}" for flag, value in {"output_dir": folder, **flags}.items()]
    return importlib.import_module(f"recipes.{name}").main(words)


def sources(folder: Path) -> dict[str, Path]:
    """Folders of what trainings need."""
    names = (
        "whisper",
        "speakers",
        "person",
        "recordings",
        "corpus",
        "units",
        "embeddings",
        "clusters",
        *KEPT.values(),
    )
    return {name: folder / "sources" / name for name in names}


def scratch(args: argparse.Namespace) -> Path:
    """The folder of a result that nothing needs; some recipes write beside it, too."""
    return args.output_dir / "work" / "result"


def save_small_whisper(folder: Path) -> Path:
    """A random Whisper with the tokens of the one that is there."""
    model, processor = load_whisper(str(OFFLINE))
    set_seed(0)
    small = DynamicContextWhisper(WhisperConfig.from_dict({**model.config.to_dict(), **SMALL}))
    small.generation_config = model.generation_config
    save_whisper(small, processor, folder)
    return folder


def make_sources(args: argparse.Namespace) -> dict[str, Path]:
    """Speech of eSpeak NG in four groups, clusters, a router, units, and recordings with their texts."""
    made = sources(args.output_dir)
    few = {"dev_speakers": 1, "utterances_per_speaker": 4}
    recipe("make_demo_corpus", made["speakers"], train_speakers=1, **few)
    recipe("make_demo_corpus", made["recordings"], layout="clean_noisy", **few)
    recipe("prepare_corpus", made["corpus"], builder="speaker_json", data_dir=made["speakers"], num_proc=1)
    recipe("learn_units", made["units"], corpus=made["corpus"], model="mfcc", num_units=20, passes=2)
    speaker = next((made["speakers"] / "Train").iterdir())
    shutil.copytree(speaker, made["person"] / "Train" / speaker.name)
    embeddings = {"corpus": made["corpus"], "model": args.model, "full_context_samples": 8}
    recipe("extract_embeddings", made["embeddings"], **embeddings)
    recipe("cluster_embeddings", made["clusters"], embedding_dir=made["embeddings"], algorithm="group")
    return made


def cases(args: argparse.Namespace) -> dict[str, Case]:
    """All trainings by name; later ones need results of earlier ones on the CPU."""
    made = sources(args.output_dir)
    whisper = {"corpus": made["corpus"], "model": args.model, **IN_STEPS}
    units = {"corpus": made["corpus"], "units_dir": made["units"], **VOCODER}
    routed = {"labels_dir": made["clusters"], "router_dir": made["router"]}
    joint = {"experts_dir": made["experts"], "router_dir": made["router"], "router_noise_std": 0}
    phases = {"num_train_epochs": 3, "soft_routing_epochs": 1, "topk_routing_epochs": 1}
    wav2vec2 = {"train_speakers": 2, "utterances_per_speaker": 8, "dev_speakers": 1, "dev_utterances": 1}
    recordings = {"audio_dir": made["recordings"], "gold": "manifest", "train_on": "all", "num_bootstrap": 0}
    of_phases = {**whisper, **joint, **phases, "max_steps": -1}
    return {
        "router": Case(
            "pretrain_router",
            {"embedding_dir": made["embeddings"], "labels_dir": made["clusters"], "num_train_epochs": 5},
            lambda result: result["train_dynamic_context"]["kl"],
        ),
        "experts": Case("pretrain_experts", {**whisper, **routed, "lora_dropout": 0}),
        "joint, weights": Case("train_moe_whisper", of_phases),
        "joint, logits": Case("train_moe_whisper", {**of_phases, "mixture": "logits"}),
        "one LoRA for all": Case("pretrain_experts", {**whisper, "lora_dropout": 0}),
        "distillation": Case(
            "distil_moe_whisper",
            {**whisper, "teacher_model": made["joint"] / "model", "max_samples": 4, "max_new_tokens": 20},
        ),
        WHOLE: Case("finetune_whisper", {**whisper, "full_context_fraction": 1}),  # for two processes, see below
        "fine-tuning, checkpointing": Case("finetune_whisper", {**whisper, "gradient_checkpointing": True}),
        "fine-tuning, LoRA": Case("finetune_asr", {**whisper, "finetuning": "lora", "lora_dropout": 0}),
        "fine-tuning, CTC head": Case("finetune_asr", {**whisper, "head": "ctc"}),
        "wav2vec2 from nothing": Case("train_demo_recogniser", {**wav2vec2, **TRAINING, "max_steps": STEPS}),
        "wav2vec2, LoRA": Case(
            "finetune_wav2vec2_lora",
            {**recordings, "model": made["wav2vec2"], "lora_dropout": 0, **TRAINING},
            lambda result: result["training"]["train_loss"],
        ),
        "vocoder, istft": Case("train_unit_vocoder", {**units, "head": "istft"}, lambda result: result["mel_loss"]),
        "vocoder, hifigan": Case(
            "train_unit_vocoder",
            {**units, "head": "hifigan", "upsample_initial_channel": 128},
            lambda result: result["mel_loss"],
        ),
        "personal voice": Case("personalise_whisper", {"model": args.model, "data": made["person"], **VOICE}, None),
    }


def is_wanted(args: argparse.Namespace, name: str) -> bool:
    return args.only is None or any(part in name for part in args.only)


def take_references(args: argparse.Namespace) -> None:
    """Make the sources, and write the losses of all cases in float32 on the CPU."""
    made = make_sources(args)
    found = {}
    for name, case in needed(args).items():
        found[name] = take(case, "float32", made[KEPT[name]] if name in KEPT else scratch(args))
        shutil.rmtree(scratch(args).parent, ignore_errors=True)
    found["loss"] = loss_of(args, load_asr(args.model)[0])
    write_json(args.output_dir / REFERENCE, found)


def needed(args: argparse.Namespace) -> dict[str, Case]:
    """The cases that are wanted, and those whose results they start from or are compared with."""
    found = cases(args)
    made = sources(args.output_dir)
    wanted = {name for name in found if is_wanted(args, name)} | ({WHOLE} if is_wanted(args, TWO) else set())
    for name in reversed(KEPT):
        paths = [str(value) for one in wanted for value in found[one].flags.values()]
        if any(path.startswith(str(made[KEPT[name]])) for path in paths):
            wanted.add(name)
    return {name: case for name, case in found.items() if name in wanted}


def work(
    args: argparse.Namespace, references: dict[str, float | None], on_gpu: bool
) -> Iterator[tuple[Row, Callable[[], float | None]]]:
    """The rows of the table, and what is to be done for each; it returns the loss."""
    for precision in ("float32", "bf16", "fp16") if on_gpu else ("bf16",):
        for name, case in cases(args).items():
            if is_wanted(args, name):
                run = functools.partial(take, case, precision, scratch(args))
                yield Row(name, precision, reference=references[name]), run
    for name, precision, run, reference in (
        ("flash attention" + ("" if is_flash_attn_2_available() else " (sdpa)"), "bf16", with_flash_attention, "loss"),
        ("base in 4 bits, LoRA", "4 bits", in_4_bit, "loss"),
        (TWO, "float32", by_two_processes, WHOLE),
    ):
        if is_wanted(args, name):
            yield Row(name, precision, reference=references[reference]), functools.partial(run, args)


def carry_out(row: Row, run: Callable[[], float | None], is_late: bool) -> None:
    """Fill in a row."""
    if is_late:
        row.verdict = "not available: out of time"
        return
    start = time.monotonic()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with predictions() as told:
            row.loss = run()
        row.verdict = verdict(row)
    except NotAvailable as reason:
        row.verdict = f"not available: {reason}"
    except (Exception, SystemExit) as error:  # of a recipe: its failure is what this table is about
        traceback.print_exc()
        row.verdict = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    row.seconds = time.monotonic() - start
    row.predicted = told[-1] if told else None
    if torch.cuda.is_available():
        row.peak = torch.cuda.max_memory_allocated() / 2**30
        gc.collect()
        torch.cuda.empty_cache()


def verdict(row: Row) -> str:
    """Whether the loss is that of the CPU in float32."""
    if row.loss is None:
        return "ok"
    if not math.isfinite(row.loss):
        return f"failed: the loss is {row.loss}"
    allowed = TOLERANCES[row.precision]
    difference = abs(row.loss / row.reference - 1)
    return "ok" if difference <= allowed else f"failed: differs by {difference:.1%}, allowed are {allowed:.0%}"


def any_failed(rows: list[Row]) -> bool:
    return any(row.verdict.startswith("failed") for row in rows)


@contextlib.contextmanager
def predictions() -> Iterator[list[float]]:
    """The GiB that trainings predict before their first step."""
    told: list[float] = []

    class Listener(logging.Handler):
        def emit(self, record):
            told.extend(map(float, re.findall(r"predicted peak memory: ([\d.]+)", record.getMessage())))

    logger = logging.getLogger(TELLS_MEMORY)
    listener = Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield told
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def take(case: Case, precision: str, folder: Path) -> float | None:
    """Run a training, and return its loss."""
    flags = case.flags
    if "per_device_train_batch_size" in flags:  # the others know no precision of their own
        flags = {**flags, "use_cpu": not torch.cuda.is_available(), FLAGS_OF[precision]: True}
    with patch.dict(os.environ, ACCELERATE_MIXED_PRECISION="no" if precision == "float32" else precision):
        result = recipe(case.recipe, folder, **flags)
    AcceleratorState._reset_state(reset_partial_state=True)  # else it keeps the precision for the next case
    return case.figure and case.figure(result)


def batch_for(args: argparse.Namespace, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Some utterances as a training batch, on the model's device."""
    rows = list(load_corpus(sources(args.output_dir)["corpus"], "train").select(range(BATCH)))
    family = family_of(model)
    processor = load_processor(args.model)
    labels = [family.tokenize(processor, row["text"]) for row in rows]
    batch = family.training_batch(processor, waveforms(rows), labels, full_context=True)
    return {name: value.to(model.device) for name, value in batch.items()}


def loss_of(args: argparse.Namespace, model: PreTrainedModel) -> float:
    batch = batch_for(args, model)
    with torch.no_grad():
        return float(family_of(model).score(model.eval(), batch).loss / (batch["labels"] != -100).sum())


def with_flash_attention(args: argparse.Namespace) -> float:
    """The loss of a model in bfloat16 with the package flash-attn, else with PyTorch's own on a GPU."""
    if not torch.cuda.is_available():
        raise NotAvailable("needs a GPU")
    model, _ = load_asr(args.model)
    model.set_attn_implementation("flash_attention_2" if is_flash_attn_2_available() else "sdpa")
    with torch.autocast("cuda", torch.bfloat16):
        return loss_of(args, model.cuda())


def in_4_bit(args: argparse.Namespace) -> float:
    """The loss of a model whose base is in 4 bits; the gradient must reach the LoRA on it."""
    if not is_bitsandbytes_available():
        raise NotAvailable("pip install bitsandbytes")
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = DynamicContextWhisper.from_pretrained(
        args.model, quantization_config=BitsAndBytesConfig(**options), device_map={"": device}
    )
    set_seed(0)
    add_lora(model, LoraArguments(lora_dropout=0.0))
    family_of(model).score(model.train(), batch_for(args, model)).loss.backward()
    gradients = [value.grad for name, value in model.named_parameters() if "lora_B" in name]
    if not all(value is not None and value.isfinite().all() and value.any() for value in gradients):
        raise ValueError("the gradient does not reach the LoRA")
    return loss_of(args, model)


def by_two_processes(args: argparse.Namespace) -> float:
    """The loss of fine-tuning by two processes, with half a batch each; all clips are 30 s, as in those of one."""
    gpus = torch.cuda.device_count()
    if gpus == 1:
        raise NotAvailable("there is one GPU")
    folder = scratch(args)
    case = cases(args)[WHOLE]
    flags = {**case.flags, "per_device_train_batch_size": BATCH // 2, "no_fp16": True, "output_dir": folder}
    config = ROOT / "accelerate_configs" / ("multi_gpu.yaml" if gpus else "multi_cpu.yaml")
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", "2"]
    script = ROOT / "recipes" / f"{case.recipe}.py"
    words = [f"--{name}={value}" for name, value in flags.items()]
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": "no", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *launch, str(script), *words], check=True, env=environment)
    history = json.loads((folder / "history.json").read_text())
    return [entry["loss"] for entry in history if "loss" in entry][-1]


def show(rows: list[Row]) -> None:
    """Print the table."""
    heading = f"{'case':28} {'precision':9} {'loss':>8} {'CPU':>8} {'s':>6} {'peak':>6} {'told':>6}  verdict"
    print(f"\nloss, that of float32 on the CPU, seconds, peak memory in GiB, and as predicted\n{heading}")
    for row in rows:
        figures = [
            (row.loss, 8, 4),
            (row.reference, 8, 4),
            (row.seconds, 6, 1),
            (row.peak, 6, 2),
            (row.predicted, 6, 2),
        ]
        cells = [
            "-".rjust(width) if value is None else f"{value:{width}.{digits}f}" for value, width, digits in figures
        ]
        print(f"{row.case:28} {row.precision:9} {' '.join(cells)}  {row.verdict}")


if __name__ == "__main__":
    sys.exit(any_failed(main()))
