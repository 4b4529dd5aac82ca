"""Read the embeddings that `extract_embeddings` wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from hf_components.runtime import UserError, read_record

FIT_SPLIT = "train"
COLUMNS = ("id", "split", "speaker_id", "group", "duration", "embedding")


@dataclass
class Embeddings:
    """Embeddings of utterances, written by `extract_embeddings`; every array has one entry per utterance."""

    ids: np.ndarray
    splits: np.ndarray
    speakers: np.ndarray
    groups: np.ndarray
    durations: np.ndarray  # seconds
    vectors: np.ndarray  # (utterances, dimension)
    source: dict  # model, layer and pooling, from embeddings.json


def load_embeddings(folder: str | Path, poolings: Sequence[str] = ("mean",)) -> Embeddings:
    """Read `embeddings.parquet` and `embeddings.json`.

    Args:
        poolings: the poolings that the caller accepts; a router sees "mean".
    Raises:
        UserError: a file is missing or damaged, the pooling is not accepted, a column is missing or has empty cells,
            the embeddings differ in length or are not finite.
    """
    file = Path(folder) / "embeddings.parquet"
    try:
        record = Path(folder) / "embeddings.json"
        record.stat()
        source = read_record(record, {"pooling": str}, "extract the embeddings again")
        if source["pooling"] not in poolings:
            raise UserError(
                f"the embeddings in {folder} were extracted with --pooling {source['pooling']}, which cannot be used "
                f"here; extract them with --pooling {' or '.join(poolings)}"
            )
        table = pyarrow.parquet.read_table(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or file} does not exist; --embedding_dir takes the output folder of extract_embeddings"
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"the embeddings in {folder} are damaged: {error}; extract them again") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names)
        raise UserError(f"{file} lacks the column {', '.join(missing)}, it has {found}; extract the embeddings again")
    empty = [name for name in COLUMNS if table[name].null_count]
    if empty or not len(table):
        raise UserError(f"{file} has {'empty cells in ' + ', '.join(empty) if empty else 'no rows'}; extract it again")
    ids, splits, speakers, groups = (np.array(table[name].to_pylist(), dtype=str) for name in COLUMNS[:4])
    return Embeddings(ids, splits, speakers, groups, table["duration"].to_numpy(), _vectors(table, ids, file), source)


def _vectors(table: pyarrow.Table, ids: np.ndarray, file: Path) -> np.ndarray:
    column = table["embedding"]
    if not (pyarrow.types.is_list(column.type) or pyarrow.types.is_fixed_size_list(column.type)):
        raise UserError(
            f"the column embedding of {file} must hold lists of numbers, got {column.type}; extract it again"
        )
    lengths = pyarrow.compute.list_value_length(column).to_numpy()
    if lengths.min() != lengths.max() or not lengths.min():
        raise UserError(
            f"all embeddings in {file} must have one length, got {lengths.min()} to {lengths.max()}; extract them "
            "with one model"
        )
    vectors = pyarrow.compute.list_flatten(column).to_numpy().astype(np.float32, copy=False).reshape(len(ids), -1)
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise UserError(
            f"{int(broken.sum())} of {len(ids)} embeddings in {file} have values that are not finite, first that of "
            f"{str(ids[broken][0])!r}; extract them in float32 or check that recording"
        )
    return vectors
