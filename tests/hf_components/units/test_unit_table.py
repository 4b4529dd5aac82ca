"""Whose units a table holds, and what stops two kinds from being mixed."""

import pyarrow.parquet
import pytest
from tiny_units import IDENTITY, write_tiny_segments, write_tiny_units

from hf_components.runtime.errors import UserError
from hf_components.units.table import check_same_units, read_units

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return write_tiny_units(folder / "units", write_tiny_segments(folder / "segments"))


def test_reads_rows_and_identity(units):
    table = read_units(units)
    assert table.identity == IDENTITY
    assert table.rows["id"].to_pylist() == [f"train_{i}" for i in range(6)] + [f"dev_{i}" for i in range(3)]
    assert table.of_split("dev")["id"].to_pylist() == ["dev_0", "dev_1", "dev_2"]
    for row in table.rows.to_pylist():
        assert sum(row["durations"]) == len(row["units"])
        assert [unit for unit, n in zip(row["deduplicated"], row["durations"], strict=True) for _ in range(n)] == row[
            "units"
        ]


def test_a_split_that_is_not_there_is_named(units):
    with pytest.raises(UserError, match="no split 'test'; they have dev, train"):
        read_units(units).of_split("test")


def test_says_what_is_wrong_with_a_folder(units, tmp_path):
    with pytest.raises(
        UserError, match="units.parquet does not exist; --units_dir takes the output folder of learn_units"
    ):
        read_units(tmp_path)
    (tmp_path / "units.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match="is damaged"):
        read_units(tmp_path)
    rows = read_units(units).rows
    pyarrow.parquet.write_table(rows.replace_schema_metadata(None), tmp_path / "units.parquet")
    with pytest.raises(UserError, match="does not say whose units they are"):
        read_units(tmp_path)
    pyarrow.parquet.write_table(rows.drop_columns(["units", "start"]), tmp_path / "units.parquet")
    with pytest.raises(UserError, match="lacks the columns start, units"):
        read_units(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("encoder", "facebook/x"), ("layer", 3), ("num_units", 50), ("centroids_sha256", "1" * 64)]
)
def test_other_units_are_refused_by_name(key, value):
    check_same_units(IDENTITY, "the vocoder", dict(IDENTITY), "the units")
    with pytest.raises(
        UserError, match=rf"^the vocoder and the units must be of the same units, .* {key} .* and {value}"
    ):
        check_same_units(IDENTITY, "the vocoder", {**IDENTITY, key: value}, "the units")
