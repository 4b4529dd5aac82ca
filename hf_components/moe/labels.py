"""Expert labels of utterances by utterance id, read from the output of `cluster_embeddings`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from hf_components.runtime import UserError, damage_named


@dataclass
class ExpertLabels:
    """Weights over experts; `rows` gives the row of each utterance id."""

    folder: str
    rows: dict[str, int]
    weights: np.ndarray  # (utterances, experts) float32

    @property
    def num_experts(self) -> int:
        return self.weights.shape[1]

    def weights_of(self, ids: list[str] | np.ndarray) -> np.ndarray:
        """Weights `(len(ids), experts)` in the order of `ids`.

        Raises:
            UserError: an utterance has no label.
        """
        missing = [name for name in ids if name not in self.rows]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(ids)} utterances have no label in {self.folder}, {missing[0]} for one; "
                "extract and cluster the embeddings of the same corpus"
            )
        return self.weights[[self.rows[name] for name in ids]]


def load_labels(folder: str | Path) -> ExpertLabels:
    """Read `labels.parquet`.

    Raises:
        UserError: the file is missing or damaged.
    """
    file = Path(folder) / "labels.parquet"
    try:
        table = pyarrow.parquet.read_table(file, columns=["id", "weights"])
    except FileNotFoundError as error:
        raise UserError(
            f"{file} does not exist; --labels_dir takes the output folder of cluster_embeddings"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged: {error}; cluster the embeddings again") from error
    with damage_named(file, "cluster the embeddings again"):
        ids = table["id"].to_pylist()
        flat = pyarrow.compute.list_flatten(table["weights"]).to_numpy().astype(np.float32, copy=False)
        weights = flat.reshape(len(ids), -1)
    return ExpertLabels(str(folder), {name: row for row, name in enumerate(ids)}, weights)
