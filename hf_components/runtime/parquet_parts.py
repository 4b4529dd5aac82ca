"""Parquet files written part by part: an interruption loses one part at most, and memory holds one part only."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hf_components.runtime.disk import atomic_write
from hf_components.runtime.records import damage_named


def write_part(table: pyarrow.Table, file: Path) -> None:
    """Write a table to `file`; a reader finds the whole file or none."""
    with atomic_write(file) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_part(file: Path) -> pyarrow.Table:
    """Read what `write_part` wrote. Raises UserError if the file is damaged."""
    with damage_named(file, "delete it, and run the same command again"):
        return pyarrow.parquet.read_table(file)


def join_parts(tables: Iterable[pyarrow.Table], file: Path) -> None:
    """Copy tables of the same schema into one Parquet file, with one table in memory at a time."""
    writer = None
    with atomic_write(file) as temporary:
        for table in tables:
            writer = writer or pyarrow.parquet.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        writer.close()
