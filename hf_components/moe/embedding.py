"""Utterance embeddings of a corpus: what a router at some encoder layer sees, in shards that survive a stop."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from accelerate import PartialState
from transformers import WhisperFeatureExtractor, WhisperProcessor

from hf_components.runtime import Progress, join_parts, make_folder, read_part, share_of, write_part
from hf_components.speech import duration_batches, log_mel, unreadable_explained, waveforms
from hf_components.training import FULL_CONTEXT_FRAMES
from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.dynamic_encoder import DynamicContextEncoder
from hf_components.whisper.mel_frames import count_real_frames

logger = logging.getLogger(__name__)

FULL_CONTEXT = "full_context"  # folder of the embeddings in an audio context of 30 s
WHISPER_MODELS = {"v2": "openai/whisper-large-v2", "v3": "openai/whisper-large-v3"}
TIME_BINS = 4  # for pooling "flatten"
BATCHES_PER_SHARD = 16  # a shard is sorted by duration: little padding, and a stop loses little work
COLUMNS = ("id", "speaker_id", "group", "duration")

Pooling = Literal["mean", "flatten", "none"]
Embed = Callable[[torch.Tensor, datasets.Dataset], list[np.ndarray]]


@dataclass(frozen=True)
class Shard:
    """Consecutive utterances of one split in one audio context: complete, or computed again after a stop.

    No batch crosses a shard, so embeddings depend neither on the number of processes nor on stops.
    """

    context: Literal["dynamic", "full"]
    split: str
    start: int
    rows: datasets.Dataset

    @property
    def file_name(self) -> str:
        return f"{self.context}-{self.split}-{self.start:09d}.parquet"


def plan_shards(
    context: Literal["dynamic", "full"], splits: Mapping[str, datasets.Dataset], batch_size: int
) -> list[Shard]:
    """Divide all utterances of the splits, in their order, into shards."""
    size = BATCHES_PER_SHARD * batch_size
    return [
        Shard(context, split, start, rows.select(range(start, min(start + size, len(rows)))))
        for split, rows in splits.items()
        for start in range(0, len(rows), size)
    ]


def write_shards(
    model: DynamicContextWhisper,
    processor: WhisperProcessor,
    shards: Iterable[Shard],
    folder: Path,
    *,
    layer: int,
    pooling: Pooling = "mean",
    batch_size: int = 16,
    num_workers: int = 0,
) -> None:
    """Embed the shards that are not in `folder` yet, see `write_vectors` and `embed_batch`.

    Args:
        layer: encoder layer, from 1.
    """

    def embed(features: torch.Tensor, rows: datasets.Dataset) -> list[np.ndarray]:
        return embed_batch(model.model.encoder, features.to(model.device, model.dtype), layer, pooling)

    extractor = processor.feature_extractor
    write_vectors(embed, extractor, shards, folder, batch_size=batch_size, num_workers=num_workers)


def write_vectors(
    embed: Embed,
    feature_extractor: WhisperFeatureExtractor,
    shards: Iterable[Shard],
    folder: Path,
    *,
    batch_size: int,
    num_workers: int = 0,
    doing: str = "embedding",
) -> None:
    """Write the shards that are not in `folder` yet. Each process does its share and waits for the others.

    A shard is a Parquet file with the columns id, speaker_id, group, duration, split and embedding.

    Args:
        embed: function of log-mel features `(batch, n_mels, frames)` and their rows, which returns a float32 array for
            each clip.
        shards: rows of the data contract, at most 30 s each, audio not decoded.
        num_workers: processes that decode audio ahead of the model; 0 decodes in this process.
        doing: what the progress bar says.
    """
    state = PartialState()
    if state.is_main_process:
        make_folder(folder)
    state.wait_for_everyone()
    missing = [shard for shard in shards if not (folder / shard.file_name).exists()]
    state.wait_for_everyone()  # every process has looked before one writes
    mine = share_of(missing)
    batches = [(shard, indices) for shard in mine for indices in duration_batches(shard.rows["duration"], batch_size)]
    loader = torch.utils.data.DataLoader(
        _Features(batches, feature_extractor), batch_size=None, num_workers=num_workers
    )
    found: dict[int, np.ndarray] = {}
    with Progress(
        total=sum(len(shard.rows) for shard in mine), desc=doing, unit="utterance", disable=not state.is_main_process
    ) as progress:
        for (shard, indices), features in zip(batches, loader, strict=True):
            found.update(zip(indices, embed(features, shard.rows.select(indices)), strict=True))
            progress.update(len(indices))
            if len(found) == len(shard.rows):
                write_part(_table(shard, [found[row] for row in range(len(found))]), folder / shard.file_name)
                found = {}
    state.wait_for_everyone()


@torch.inference_mode()
def embed_batch(
    encoder: DynamicContextEncoder, features: torch.Tensor, layer: int, pooling: Pooling
) -> list[np.ndarray]:
    """Embeddings of a batch of log-mel features `(batch, n_mels, frames)` after `layer` layers, without padding.

    - mean: mean over the frames, `(d_model,)`: what a router sees;
    - flatten: means of `TIME_BINS` parts of equal length, one after the other, `(TIME_BINS * d_model,)`;
    - none: all frames, 50 per second, `(frames, d_model)`.

    Returns:
        one float32 array per clip.
    """
    if pooling == "mean":
        return list(encoder.embed(features, layer).cpu().numpy())
    states = encoder.run_layers(encoder.embed_frames(features), encoder.layers[:layer]).float()
    lengths = (count_real_frames(features) + 1) // 2  # two mel frames per position
    clips = [clip[:length] for clip, length in zip(states, lengths.tolist(), strict=True)]
    if pooling == "flatten":
        clips = [torch.nn.functional.adaptive_avg_pool1d(clip.T, TIME_BINS).T.flatten() for clip in clips]
    return [clip.cpu().numpy() for clip in clips]


def join_shards(shards: Iterable[Shard], folder: Path, file: Path) -> None:
    """Copy shards into one Parquet file; only one is in memory at a time."""
    join_parts((read_part(folder / shard.file_name) for shard in shards), file)


class _Features(torch.utils.data.Dataset):
    """Log-mel features of each batch."""

    def __init__(self, batches: Sequence[tuple[Shard, list[int]]], feature_extractor: WhisperFeatureExtractor):
        self.batches = batches
        self.feature_extractor = feature_extractor

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> torch.Tensor:
        shard, rows = self.batches[index]
        with unreadable_explained():
            clips = waveforms(shard.rows.select(rows))
        return log_mel(self.feature_extractor, clips, FULL_CONTEXT_FRAMES if shard.context == "full" else None)


def _table(shard: Shard, vectors: list[np.ndarray]) -> pyarrow.Table:
    columns = {name: shard.rows[name][:] for name in COLUMNS}
    values = pyarrow.array(np.concatenate([vector.ravel() for vector in vectors]))
    embedding = pyarrow.FixedSizeListArray.from_arrays(values, vectors[0].shape[-1])
    if vectors[0].ndim == 2:
        embedding = pyarrow.ListArray.from_arrays(np.cumsum([0, *map(len, vectors)], dtype=np.int32), embedding)
    return pyarrow.table({**columns, "split": [shard.split] * len(vectors), "embedding": embedding})
