"""Parquet written part by part: a stop costs a part, and nothing but a part is ever in memory."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hf_components.runtime.disk import atomic_write


def write_part(table: pyarrow.Table, file: Path) -> None:
    """A reader finds the whole file or none."""
    with atomic_write(file) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def join_parts(tables: Iterable[pyarrow.Table], file: Path) -> None:
    """Copy tables of one schema into one Parquet file, one at a time in memory."""
    writer = None
    with atomic_write(file) as temporary:
        for table in tables:
            writer = writer or pyarrow.parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        writer.close()
