"""A tiny corpus of segments, and the units of one as `learn_units` writes them, made up without a model."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from datasets import Audio, Dataset
from paths import CONFIGS

from hf_components.speech.audio import encode_flac
from hf_components.units.table import HOP, SECONDS_PER_UNIT, units_schema

RATE = 16_000
QUICK = CONFIGS / "run_units_pipeline" / "quick.yaml"
IDENTITY = {"encoder": "mfcc", "layer": None, "num_units": 8, "centroids_sha256": "0" * 64}
CARD = """---
configs:
- config_name: default
  description: {content}
  data_files:
  - {{split: train, path: data/train-*.parquet}}
  - {{split: dev, path: data/dev-*.parquet}}
---
"""


def babble(seconds: float, seed: int) -> np.ndarray:
    """float32 (samples,): a voice that moves between eight vowels of its own, with a breath after each."""
    rng = np.random.default_rng([67, seed])
    pieces, length = [], round(seconds * RATE)
    while sum(map(len, pieces)) < length:
        time = np.arange(int(rng.uniform(0.08, 0.3) * RATE)) / RATE
        vowel, pitch = rng.integers(8), rng.uniform(90, 220)
        formants = 300 + 90 * vowel, 2400 - 180 * vowel
        tone = sum(
            np.exp(-min(abs(n * pitch - f) for f in formants) / 200) * np.sin(2 * np.pi * n * pitch * time)
            for n in range(1, 20)
        )
        pieces += [0.1 * tone * np.hanning(len(time)), np.zeros(int(0.02 * RATE))]
    return (np.concatenate(pieces)[:length] + 0.003 * rng.standard_normal(length)).astype(np.float32)


def segment_rows(split: str, count: int, seconds: float | None = None, suffix: str = ".mp3") -> list[dict]:
    """Rows of the data contract, two speakers per split; clips of 2 to 4 s unless told."""
    rows, start = [], 0.0
    for number in range(count):
        wave = babble(2 + 2 * (3 * number % 7) / 7 if seconds is None else seconds, 100 * (split == "dev") + number)
        rows.append(
            {
                "id": f"{split}_{number}",
                "audio": {"bytes": encode_flac(wave), "path": None},
                "text": "",
                "speaker_id": f"{split}_speaker_{number % 2}",
                "group": "recording",
                "duration": len(wave) / RATE,
                "source_file": f"{split}{suffix}",
                "start": start,
                "end": start + len(wave) / RATE,
            }
        )
        start = rows[-1]["end"] + 0.5
    return rows


def write_tiny_segments(
    folder: Path, train: int = 6, dev: int = 3, seconds: float | None = None, suffix: str = ".mp3"
) -> Path:
    """A corpus as `segment_audio` leaves it, with the splits train and dev."""
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", train), ("dev", dev)):
        rows = Dataset.from_list(segment_rows(split, count, seconds, suffix)).cast_column(
            "audio", Audio(RATE, decode=False)
        )
        rows.to_parquet(folder / "data" / f"{split}-00000.parquet")
    (folder / "README.md").write_text(
        CARD.format(content=f"{train} {dev} {seconds} {suffix}")
    )  # the key of load_dataset's cache
    return folder


def write_tiny_units(folder: Path, segments: Path, num_units: int = 8, seed: int = 0) -> Path:
    """`units.parquet`, `report.json` and `all_units_for_bpe.txt` for a corpus of segments; units stay for some
    frames."""
    identity = {**IDENTITY, "num_units": num_units}
    rng, rows = np.random.default_rng(seed), []
    for split in ("train", "dev"):
        segment_table = pyarrow.parquet.read_table(segments / "data" / f"{split}-00000.parquet").drop_columns("audio")
        for row in segment_table.to_pylist():
            frames = (round(row["duration"] * RATE) - 400) // HOP + 1
            runs = [unit for unit in rng.integers(num_units, size=frames) for _ in range(rng.integers(1, 9))][:frames]
            changes = [0, *(i for i in range(1, frames) if runs[i] != runs[i - 1])]
            rows.append(
                {
                    "id": row["id"],
                    "split": split,
                    "source_file": row["source_file"],
                    "start": row["start"],
                    "speaker_id": row["speaker_id"],
                    "duration": row["duration"],
                    "units": runs,
                    "deduplicated": [runs[i] for i in changes],
                    "durations": np.diff([*changes, frames]).tolist(),
                    "start_times": [i * SECONDS_PER_UNIT for i in changes],
                }
            )
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows, schema=units_schema(identity)), folder / "units.parquet"
    )
    (folder / "report.json").write_text(
        json.dumps({"units": identity, "frames": sum(len(row["units"]) for row in rows)})
    )
    (folder / "all_units_for_bpe.txt").write_text(
        "".join(" ".join(map(str, row["deduplicated"])) + "\n" for row in rows if row["split"] == "train")
    )
    return folder


def pipeline_command(recordings: Path, out: Path, *more: str) -> list[str]:
    """The words of a quick `run_units_pipeline` on a folder of recordings."""
    return [
        "--config",
        str(QUICK),
        "--model=mfcc",
        f"--data={recordings}",
        f"--output_dir={out}",
        "--recogniser_model=none",
        "--num_units=6",
        "--vocab_size=30",
        "--epochs=2",
        "--samples_per_epoch=4",
        "--batch_size=2",
        "--crop_seconds=0.5",
        "--adversarial_from_epoch=2",
        "--validation_crops=2",
        "--max_samples=2",
        "--num_bootstrap=10",
        "--no_plot",
        "--stage_options",
        "vocoder.hidden_size=16",
        "vocoder.num_layers=1",
        "segment_audio.num_proc=1",
        "vocoder.report_to=none",
        *more,
    ]
