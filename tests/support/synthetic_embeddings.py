"""Clusters of synthetic embeddings that behave like Whisper's: a large common offset, dimensions of unequal scale."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from hf_components.moe.clustering import Embeddings

GROUPS = ("adult", "child", "digits", "studio")


def make_embeddings(
    utterances: int = 240, spread: float = 1.0, dimension: int = 32, groups=GROUPS, speakers: int = 5, seed: int = 0
) -> Embeddings:
    """One blob per group; the last speaker of every group is in "dev"."""
    rng = np.random.default_rng(seed)
    blob = np.arange(utterances) % len(groups)
    speaker = np.arange(utterances) // len(groups) % speakers
    vectors = (
        2 * rng.normal(size=(len(groups), dimension))[blob] + spread * rng.normal(size=(utterances, dimension)) + 50
    )
    vectors[:, 3] *= 40  # an outlier dimension, as trained encoders have
    vectors[:, 4] = 0.1  # a constant one
    return Embeddings(
        ids=np.array([f"u{i}" for i in range(utterances)]),
        splits=np.where((speaker == speakers - 1) & (speakers > 1), "dev", "train"),
        speakers=np.array([f"{b}-{s}" for b, s in zip(blob, speaker, strict=True)]),
        groups=np.array(groups)[blob],
        durations=rng.uniform(1, 9, utterances),
        vectors=vectors.astype(np.float32),
        source={"model": "tiny", "layer": 2, "pooling": "mean"},
    )


def write_embeddings(embeddings: Embeddings, folder: Path, **replaced) -> Path:
    """As `extract_embeddings` does; `replaced` columns are other, or missing where None."""
    folder.mkdir(exist_ok=True)
    vectors = pyarrow.FixedSizeListArray.from_arrays(embeddings.vectors.ravel(), embeddings.vectors.shape[1])
    columns = {
        "id": embeddings.ids,
        "split": embeddings.splits,
        "speaker_id": embeddings.speakers,
        "group": embeddings.groups,
        "duration": embeddings.durations,
        "embedding": vectors,
    }
    columns = {name: column for name, column in {**columns, **replaced}.items() if column is not None}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "embeddings.parquet")
    (folder / "embeddings.json").write_text(json.dumps(embeddings.source))
    return folder
