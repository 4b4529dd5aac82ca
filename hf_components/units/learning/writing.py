"""Write the units of every segment of a corpus, and figures of their use."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from accelerate import PartialState

from hf_components.acoustic_units import AcousticUnitsModel, nearest_centroid, timed
from hf_components.runtime import Progress, join_parts, make_folder, read_part, share_of, write_part
from hf_components.speech import seconds_batches, unreadable_explained, waveforms
from hf_components.units.learning.features import clip_features, pad_waveforms
from hf_components.units.table import FILE, units_schema

PART_BATCHES = 10  # batches per part, sorted by duration: little padding, and a stop loses little work
BPE_SPLIT, BPE_FILE, JSON_FILE = "train", "all_units_for_bpe.txt", "units.json"
DISTANCE = "squared_distance"  # column of the parts only: the sum over a segment's frames


@dataclass
class Usage:
    """How the units are used in a split.

    Args:
        counts: frames of each unit `(num_units,)`.
    """

    counts: np.ndarray
    segments: int = 0
    seconds: float = 0.0
    runs: int = 0
    squared_distance: float = 0.0

    def report(self) -> dict:
        """Figures for `report.json`; entropy is in bits per frame, perplexity is 2 to the power of it."""
        frames = int(self.counts.sum())
        shares = self.counts[self.counts > 0] / frames
        entropy = float(-(shares * np.log2(shares)).sum())
        return {
            "segments": self.segments,
            "seconds": self.seconds,
            "frames": frames,
            "inertia": self.squared_distance,
            "inertia_per_frame": self.squared_distance / frames,
            "entropy": entropy,
            "perplexity": 2**entropy,
            "entropy_of_even_use": math.log2(len(self.counts)),
            "dead_units": np.flatnonzero(self.counts == 0).tolist(),
            "frames_per_run": frames / self.runs,
            "runs_per_second": self.runs / self.seconds,
            "usage": self.counts.tolist(),
        }


@dataclass
class _Part:
    """Consecutive segments of a split: their units are written together, or again after a stop."""

    split: str
    start: int
    rows: datasets.Dataset
    batches: list[list[int]] = field(repr=False)

    @property
    def file_name(self) -> str:
        return f"{self.split}-{self.start:09d}.parquet"


def write_units(
    model: AcousticUnitsModel,
    splits: Mapping[str, datasets.Dataset],
    folder: Path,
    folder_of_parts: Path,
    *,
    batch_seconds: float = 60.0,
    num_workers: int = 0,
) -> dict[str, dict]:
    """Write `units.parquet`, `units.json` and `all_units_for_bpe.txt`; each process encodes its share of the segments.

    Args:
        splits: rows of the data contract, audio not decoded. Without the columns `source_file` and `start`, each
            segment is its own source.
        folder_of_parts: folder of finished parts, which are not encoded again after a stop.
        batch_seconds: seconds of speech, with padding, that a process encodes at once.
        num_workers: processes that decode audio ahead of the model.
    Returns:
        `Usage.report` of each split.
    """
    state = PartialState()
    if state.is_main_process:
        make_folder(folder_of_parts)
    state.wait_for_everyone()
    parts = [part for split, rows in splits.items() for part in _parts(split, rows, batch_seconds)]
    missing = [part for part in parts if not (folder_of_parts / part.file_name).exists()]
    state.wait_for_everyone()  # every process has looked before one writes
    mine = share_of(missing)
    with Progress(
        total=sum(len(part.rows) for part in mine),
        desc="writing units",
        unit="segment",
        disable=not state.is_main_process,
    ) as progress:
        inputs = torch.utils.data.DataLoader(_Waveforms(mine), batch_size=None, num_workers=num_workers)
        for part, table in _encoded(model, mine, iter(inputs)):
            write_part(table, folder_of_parts / part.file_name)
            progress.update(len(part.rows))
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    usage = {split: Usage(np.zeros(model.config.num_units, dtype=np.int64)) for split in splits}
    tables = (read_part(folder_of_parts / part.file_name) for part in parts)
    join_units(_counted(tables, usage), folder)
    return {split: found.report() for split, found in usage.items()}


def _parts(split: str, rows: datasets.Dataset, batch_seconds: float) -> Iterator[_Part]:
    durations = rows["duration"][:]
    start = 0
    while start < len(rows):
        end = start
        seconds = 0.0
        while end < len(rows) and seconds < PART_BATCHES * batch_seconds:
            seconds += durations[end]
            end += 1
        yield _Part(split, start, rows.select(range(start, end)), seconds_batches(durations[start:end], batch_seconds))
        start = end


def _encoded(
    model: AcousticUnitsModel, parts: list[_Part], inputs: Iterator[tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[tuple[_Part, pyarrow.Table]]:
    schema = units_schema(model.identity()).append(pyarrow.field(DISTANCE, pyarrow.float64()))
    for part in parts:
        rows: list[dict | None] = [None] * len(part.rows)
        described = part.rows.remove_columns("audio").to_list()
        for batch in part.batches:
            features = clip_features(model, *next(inputs), [described[index]["id"] for index in batch])
            units, distances = nearest_centroid(torch.cat(features), model.centroids)
            lengths = [len(clip) for clip in features]
            for index, *found in zip(batch, units.cpu().split(lengths), distances.cpu().split(lengths), strict=True):
                rows[index] = _row(described[index], part.split, *found)
        yield part, pyarrow.Table.from_pylist(rows, schema)


def _row(segment: dict, split: str, units: torch.Tensor, distances: torch.Tensor) -> dict:
    runs = timed(units, deduplicate=True)
    return {
        "id": segment["id"],
        "split": split,
        "source_file": segment.get("source_file", segment["id"]),
        "start": segment.get("start", 0.0),
        "speaker_id": segment["speaker_id"],
        "duration": segment["duration"],
        "units": units.numpy(),
        "deduplicated": runs.units.numpy(),
        "durations": runs.durations.numpy(),
        "start_times": runs.start_times.numpy(),
        DISTANCE: distances.sum().item(),
    }


def join_units(tables: Iterable[pyarrow.Table], folder: Path) -> None:
    """Write `units.parquet`, `units.json` and `all_units_for_bpe.txt` of tables with the schema of `units_schema`."""
    with (
        (folder / JSON_FILE).open("w", encoding="utf-8") as json_file,
        (folder / BPE_FILE).open("w", encoding="utf-8") as bpe_file,
    ):
        join_parts(_copied(tables, json_file, bpe_file), folder / FILE)


def _copied(tables: Iterable[pyarrow.Table], json_file, bpe_file) -> Iterator[pyarrow.Table]:
    """The tables, once their rows are written as JSON and text."""
    lines = 0
    for table in tables:
        for row in table.to_pylist():
            json_file.write((",\n" if lines else "[\n") + json.dumps(row, ensure_ascii=False))
            lines += 1
            if row["split"] == BPE_SPLIT:
                bpe_file.write(" ".join(map(str, row["deduplicated"])) + "\n")
        yield table
    json_file.write("\n]\n")


def _counted(tables: Iterable[pyarrow.Table], usage: dict[str, Usage]) -> Iterator[pyarrow.Table]:
    """The tables without the column for the report, which is added to `usage`."""
    for table in tables:
        _count(table, usage[table["split"][0].as_py()])
        yield table.drop_columns(DISTANCE)


def _count(table: pyarrow.Table, usage: Usage) -> None:
    units = table["units"].combine_chunks().flatten().to_numpy()
    usage.counts += np.bincount(units, minlength=len(usage.counts))
    usage.segments += len(table)
    usage.seconds += pyarrow.compute.sum(table["duration"]).as_py()
    usage.runs += len(table["durations"].combine_chunks().flatten())
    usage.squared_distance += pyarrow.compute.sum(table[DISTANCE]).as_py()


class _Waveforms(torch.utils.data.Dataset):
    """Padded waveforms and mask of each batch of each part."""

    def __init__(self, parts: list[_Part]):
        self.batches = [part.rows.select(batch) for part in parts for batch in part.batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with unreadable_explained():
            return pad_waveforms(waveforms(self.batches[index]))
