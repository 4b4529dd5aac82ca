"""A few segments of units, and a vocabulary with one motif."""

from pathlib import Path

import numpy as np
import pyarrow

from hf_components.units.motifs.bpe import Motifs, save_motifs, train_motifs
from hf_components.units.table import COLUMNS


def unit_rows(*segments: list[tuple[int, int]]) -> pyarrow.Table:
    """Of units and their frames."""
    return pyarrow.Table.from_pylist(
        [
            {
                "id": f"s{i}",
                "split": "train",
                "source_file": "a.wav",
                "start": 100.0 * i,
                "speaker_id": f"speaker_{i % 2}",
                "duration": 0.02 * sum(frames for _, frames in segment) + 0.01,
                "units": [unit for unit, frames in segment for _ in range(frames)],
                "deduplicated": [unit for unit, _ in segment],
                "durations": [frames for _, frames in segment],
                "start_times": (0.02 * np.cumsum([0, *(frames for _, frames in segment)])[:-1]).tolist(),
            }
            for i, segment in enumerate(segments)
        ],
        schema=COLUMNS,
    )


TABLE = unit_rows([(0, 2), (1, 3), (2, 1), (0, 1), (1, 1)], [], [(3, 5)], [(2, 1), (0, 4), (1, 2)])


def pair_motif(folder: Path) -> Motifs:
    """Over four units, with the one motif 0 1."""
    save_motifs(
        folder,
        train_motifs(TABLE["deduplicated"].to_pylist(), 4, 9),
        {"encoder": "mfcc", "layer": None, "num_units": 4, "centroids_sha256": "0"},
    )
    return Motifs.from_pretrained(folder)
