"""Embeddings come back from their file, or it is said why not."""

import numpy as np
import pytest
from synthetic_embeddings import make_embeddings, write_embeddings

from hf_components.moe.clustering import load_embeddings
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("as_lists", [False, True])
def test_embeddings_survive_the_file(tmp_path, as_lists):
    embeddings = make_embeddings(utterances=12)
    replaced = {"embedding": list(embeddings.vectors)} if as_lists else {}  # of any length, as other tools write them
    loaded = load_embeddings(write_embeddings(embeddings, tmp_path, **replaced))
    for name in ("ids", "splits", "speakers", "groups", "durations", "vectors"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(embeddings, name))
    assert loaded.vectors.dtype == np.float32 and loaded.source == embeddings.source


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"group": None}, "lacks the column group"),
        ({"speaker_id": ["a", None] * 6}, "empty cells in speaker_id"),
        ({"embedding": [[1.0, 2.0]] * 11 + [[1.0]]}, "must have one length, got 1 to 2"),
        (
            {"embedding": [[1.0, 2.0]] * 10 + [[1.0, float("nan")], [float("inf"), 1.0]]},
            "2 of 12 .* not finite, .* 'u10'",
        ),
        ({"embedding": [1.0] * 12}, "must hold lists of numbers, got double"),
    ],
)
def test_wrong_files_are_named(tmp_path, replaced, message):
    write_embeddings(make_embeddings(utterances=12), tmp_path, **replaced)
    with pytest.raises(UserError, match=message):
        load_embeddings(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match="embeddings.json does not exist"):
        load_embeddings(tmp_path)
    write_embeddings(make_embeddings(utterances=12), tmp_path)
    (tmp_path / "embeddings.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="are damaged"):
        load_embeddings(tmp_path)
    (tmp_path / "embeddings.parquet").unlink()
    with pytest.raises(UserError, match="embeddings.parquet does not exist"):
        load_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("pooling", "taken", "message"),
    [
        ("flatten", ("mean",), "extracted with --pooling flatten, .* extract them with --pooling mean$"),
        (
            "none",
            ("mean", "flatten"),
            "extracted with --pooling none, .* extract them with --pooling mean or flatten$",
        ),
    ],
)
def test_a_pooling_that_cannot_be_used_is_refused(tmp_path, pooling, taken, message):
    embeddings = make_embeddings(utterances=12)
    embeddings.source["pooling"] = pooling
    write_embeddings(embeddings, tmp_path)
    with pytest.raises(UserError, match=message):
        load_embeddings(tmp_path, taken)
    assert load_embeddings(tmp_path, (pooling,)).source["pooling"] == pooling
