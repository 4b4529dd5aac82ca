"""Parquet written part by part: a stop costs a part, and nothing but a part is ever in memory."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet


def write_part(table: pyarrow.Table, file: Path) -> None:
    """A reader finds the whole file or none."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("wb") as opened:
        pyarrow.parquet.write_table(table, opened)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)


def join_parts(tables: Iterable[pyarrow.Table], file: Path) -> None:
    """Copy tables of one schema into one Parquet file, one at a time in memory."""
    temporary = file.with_name(f".{file.name}.tmp")
    writer = None
    for table in tables:
        writer = writer or pyarrow.parquet.ParquetWriter(temporary, table.schema)
        writer.write_table(table)
    writer.close()
    temporary.replace(file)
