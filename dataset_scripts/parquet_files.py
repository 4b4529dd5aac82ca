"""The Parquet files of a prepared corpus: small ones are joined, so that their number grows with its size alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet

from dataset_scripts.shards import Prepared
from hf_components.runtime import UserError, atomic_write, check_files, read_record, write_json

PLAN = "files.json"  # target -> the files that become it


def place_files(prepared: Prepared, data: Path, building: Path, max_bytes: int) -> None:
    """Move the files of each split to `data/<split>-00000-of-0000N.parquet`; neighbours are joined up to `max_bytes`.

    A run that is killed goes on by the plan that it wrote first, since a file is gone once it has its place.

    Args:
        prepared: its files are complete, and below `building`.
        building: folder of the plan.
    """
    if not (building / PLAN).exists():
        write_json(building / PLAN, _plan(prepared.files, building, max_bytes))
    again = f"delete {building.parent} to prepare the corpus again"
    plan = read_record(building / PLAN, {str: [str]}, again)
    for target, sources in plan.items():
        present = [building / source for source in sources if (building / source).exists()]
        if len(sources) == 1:
            if present:
                present[0].replace(data / target)
            elif was := prepared.written.get(building / sources[0]):
                check_files(data, {target: was}, again, data / target)
        elif not (data / target).exists():
            if len(present) < len(sources):
                raise UserError(f"{building} lacks {len(sources) - len(present)} files of {target}; {again}")
            _join(present, data / target)
        for source in present:
            source.unlink(missing_ok=True)


def _plan(files: Mapping[str, Sequence[Path]], building: Path, max_bytes: int) -> dict[str, list[str]]:
    plan = {}
    for split, of_split in files.items():
        groups: list[list[Path]] = []
        size = 0
        for file in of_split:
            if not groups or size + file.stat().st_size > max_bytes:
                groups.append([])
                size = 0
            groups[-1].append(file)
            size += file.stat().st_size
        for number, group in enumerate(groups):
            name = f"{split}-{number:05d}-of-{len(groups):05d}.parquet"
            plan[name] = [str(file.relative_to(building)) for file in group]
    return plan


def _join(sources: Sequence[Path], target: Path) -> None:
    """Write the row groups of all sources into one file, one group in memory at a time."""
    schema = pyarrow.parquet.read_schema(sources[0])
    with atomic_write(target) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for source in sources:
            with pyarrow.parquet.ParquetFile(source) as opened:
                for group in range(opened.num_row_groups):
                    writer.write_table(opened.read_row_group(group))
