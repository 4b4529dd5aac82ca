"""The acoustic units of a corpus, written by `recipes/learn_units.py`, and the identity of these units."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from hf_components.runtime import UserError, parse_record

FILE = "units.parquet"
IDENTITY = ("encoder", "layer", "num_units", "centroids_sha256")
HOP = 320  # samples of 16 kHz per unit: unit i represents audio[i * HOP : (i + 1) * HOP]
SECONDS_PER_UNIT = HOP / 16_000
COLUMNS = pyarrow.schema(
    {
        "id": pyarrow.string(),
        "split": pyarrow.string(),
        "source_file": pyarrow.string(),
        "start": pyarrow.float64(),
        "speaker_id": pyarrow.string(),
        "duration": pyarrow.float64(),
        "units": pyarrow.list_(pyarrow.int32()),
        "deduplicated": pyarrow.list_(pyarrow.int32()),
        "durations": pyarrow.list_(pyarrow.int32()),
        "start_times": pyarrow.list_(pyarrow.float64()),
    }
)


@dataclass(frozen=True)
class UnitTable:
    """Units of a corpus.

    Args:
        rows: one per segment: `id`, `split`, `source_file`, `start` (seconds in the source), `speaker_id`, `duration`
            (seconds), `units` (one per frame of 20 ms), and the same with repetitions joined: `deduplicated`,
            `durations` (frames) and `start_times` (seconds within the segment).
        identity: identity of the units: `encoder`, `layer`, `num_units`, `centroids_sha256`.
    """

    rows: pyarrow.Table
    identity: dict

    def of_split(self, split: str) -> pyarrow.Table:
        """The rows of one split.

        Raises:
            UserError: there are none.
        """
        splits = self.rows["split"].to_pylist()
        if split not in splits:
            raise UserError(f"the units have no split {split!r}; they have {', '.join(sorted(set(splits)))}")
        return self.rows.filter(pyarrow.array([name == split for name in splits]))


def units_schema(identity: dict) -> pyarrow.Schema:
    """The columns of `units.parquet`, with the identity of the units in its metadata."""
    return COLUMNS.with_metadata({"units": json.dumps(identity)})


def read_units(folder: str | Path) -> UnitTable:
    """Read the units in an output folder of `learn_units`.

    Raises:
        UserError: the units are missing or damaged, or their identity is missing.
    """
    file = Path(folder) / FILE
    try:
        rows = pyarrow.parquet.read_table(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; --units_dir takes the output folder of learn_units") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged: {error}; learn the units again") from error
    metadata = rows.schema.metadata or {}
    if missing := [name for name in COLUMNS.names if name not in rows.column_names]:
        raise UserError(f"{file} lacks the columns {', '.join(missing)}; recipes/learn_units.py writes them")
    for field in COLUMNS:
        if rows.schema.field(field.name).type != field.type:
            raise UserError(f"{file} is damaged: {field.name} must be {field.type}; learn the units again")
        if rows[field.name].null_count:
            raise UserError(f"{file} is damaged: {field.name} has empty cells; learn the units again")
    if b"units" not in metadata:
        raise UserError(f"{file} does not say whose units they are; learn the units again")
    return UnitTable(rows, parse_record(metadata[b"units"], dict, f"the metadata of {file}", "learn the units again"))


def check_same_units(identity_a: dict, name_a: str, identity_b: dict, name_b: str) -> None:
    """Make sure that two things use the same units.

    Args:
        identity_a, identity_b: `UnitTable.identity` or `AcousticUnitsModel.identity()`.
        name_a, name_b: names of the two things, for the message.
    Raises:
        UserError: the identities differ; the message says how.
    """
    differences = [
        f"{key} {identity_a.get(key)} and {identity_b.get(key)}"
        for key in IDENTITY
        if identity_a.get(key) != identity_b.get(key)
    ]
    if differences:
        raise UserError(
            f"{name_a} and {name_b} must be of the same units, but have {'; '.join(differences)}; the same number "
            "means another sound in each: take both from one run of learn_units"
        )
