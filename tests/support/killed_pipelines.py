"""The pipelines that tests/support/kill_and_resume.py kills: small, and still everything that they do."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from make_long_recordings import long_recording
from tiny_speech import save_tiny_whisper, speaker_folder


class Pipeline(NamedTuple):
    """A pipeline and its moments.

    Args:
        recipe: its name.
        flags: of a small run.
        sources: writes what the run reads into a folder -> the flags that name it.
        places: pattern of the files of a place that has moments of its own, by its name.
        more: moments of stages beside their middle, as kind (step, file, or a place) and share of all of that kind.
    """

    recipe: str
    flags: list[str]
    sources: Callable[[Path], list[str]]
    places: dict[str, str]
    more: dict[str, tuple[tuple[str, float], ...]]


def tiny_speakers(folder: Path) -> list[str]:
    speaker_folder(folder / "speakers")
    save_tiny_whisper(folder / "whisper")
    return [f"--data={folder / 'speakers'}", f"--model={folder / 'whisper'}"]


def long_recordings(folder: Path) -> list[str]:
    for number in range(4):
        long_recording(folder / "recordings" / f"{number}.wav", bursts=4, seed=number)
    return [f"--data={folder / 'recordings'}"]


TRAINING = {
    "report_to": "none",
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "full_context_fraction": 0.3,
    "max_new_tokens": 6,
    "logging_steps": 5,
}
MOE = {  # checkpoints in every epoch, all three phases of routing
    "extract_embeddings": {"full_context_samples": 3, "batch_size": 4},
    "pretrain_router": {"num_train_epochs": 12, "save_every_n_epochs": 2, "validation_fraction": 0.5},
    "pretrain_experts": TRAINING,
    "train_moe_whisper": {**TRAINING, "soft_routing_epochs": 1, "topk_routing_epochs": 1},
    "benchmark_asr": {"max_new_tokens": 6, "num_bootstrap": 20},
}
UNITS = {  # several batches of features, parts of units and passes; half of the epochs with discriminators
    "segments": {"num_proc": 1, "val_ratio": 0.25},
    "units": {"batch_seconds": 2, "update_seconds": 4, "passes": 4},
    "concordance": {"min_units": 2, "num_motifs": 5, "clips_per_motif": 2},
    "vocoder": {
        "hidden_size": 16,
        "num_layers": 1,
        "period_channels": 2,
        "resolution_channels": 2,
        "report_to": "none",
        "save_every": 2,
        "checkpoint_every": 1,
        "patience": 0,
    },
}


def options(of_stages: dict[str, dict]) -> list[str]:
    return [
        "--stage_options",
        *(f"{stage}.{flag}={value}" for stage, flags in of_stages.items() for flag, value in flags.items()),
    ]


PIPELINES = {
    "moe": Pipeline(
        "run_moe_pipeline",
        ["--num_experts=3", "--shared_epochs=1", "--expert_epochs=1", "--joint_epochs=3", *options(MOE)],
        tiny_speakers,
        places={},
        more={"joint": (("step", 1 / 6), ("step", 5 / 6)), "single_lora": (("file", 0.5),)},
    ),  # soft, hard routing; checkpoint
    "units": Pipeline(
        "run_units_pipeline",
        [
            "--recogniser_model=none",
            "--model=mfcc",
            "--num_units=6",
            "--vocab_size=20",
            "--epochs=4",
            "--samples_per_epoch=8",
            "--batch_size=2",
            "--crop_seconds=0.5",
            "--adversarial_from_epoch=3",
            "--validation_crops=2",
            "--max_samples=4",
            "--num_bootstrap=10",
            *options(UNITS),
        ],
        long_recordings,
        places={
            "features": r"learning/features/",
            "kmeans": r"learning/kmeans",
            "parts": r"learning/parts/",
            "checkpoint": r"checkpoints/",
        },
        # Discriminators have steps of their own: four epochs are 8 + 16 steps.
        more={
            "units": (("features", 0.5), ("kmeans", 0.5), ("parts", 0.5)),
            "vocoder": (("step", 1 / 6), ("step", 5 / 6), ("checkpoint", 0.5), ("checkpoint", 0.6)),
        },
    ),
}
