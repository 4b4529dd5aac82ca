"""Expert labels by utterance id."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hf_components.moe.labels import load_labels
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    weights = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ["a", "b", "c"], "label": [0, 1, 0], "weights": weights}), tmp_path / "labels.parquet"
    )
    return tmp_path


def test_weights_follow_the_ids(folder):
    labels = load_labels(folder)
    assert labels.num_experts == 2
    weights = labels.weights_of(["c", "a"])
    assert weights.dtype == np.float32 and np.allclose(weights, [[0.5, 0.5], [0.9, 0.1]])


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"1 of 2 utterances have no label in .*, x for one"):
        load_labels(folder).weights_of(["a", "x"])
    with pytest.raises(UserError, match="takes the output folder of cluster_embeddings"):
        load_labels(tmp_path / "nowhere")
    (folder / "labels.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="is damaged"):
        load_labels(folder)
