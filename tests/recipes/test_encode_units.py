"""The recipe encode_units: the files of learn_units with an existing model, and stops at any moment."""

from pathlib import Path

import pytest
from tiny_speech import save_tiny_whisper
from tiny_units import write_tiny_segments

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime.errors import UserError
from hf_components.units.learning import learner, writing
from hf_components.units.table import read_units
from recipes import encode_units, learn_units

pytestmark = pytest.mark.integration

FILES = ("units.parquet", "units.json", "all_units_for_bpe.txt", "model/config.json", "model/model.safetensors")


@pytest.fixture(scope="module")
def segments(tmp_path_factory) -> Path:
    return write_tiny_segments(tmp_path_factory.mktemp("corpus") / "segments", train=6, dev=2)


@pytest.fixture(scope="module")
def learnt(segments, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learnt") / "units"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "SAMPLE", 200)
        learn_units.main(
            ["--model=mfcc", "--num_units=10", "--update_seconds=6", "--batch_seconds=5"]
            + [f"--corpus={segments}", f"--output_dir={folder}"]
        )
    return folder


def command(learnt: Path, segments: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"--model={learnt / 'model'}",
        f"--corpus={segments}",
        f"--output_dir={folder}",
        "--batch_seconds=5",
        *more,
    ]


def test_the_corpus_that_units_were_learnt_on_becomes_the_same_units(segments, learnt, tmp_path):
    report = encode_units.main(command(learnt, segments, tmp_path / "units"))
    for name in FILES:
        assert (tmp_path / "units" / name).read_bytes() == (learnt / name).read_bytes(), name
    assert not (tmp_path / "units" / ".scratch").exists()
    assert report["units"] == read_units(learnt).identity
    assert report["splits"].keys() == {"train", "dev"}


def test_a_stopped_run_encodes_no_part_twice(segments, learnt, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PART_BATCHES", 1)
    encode_units.main(command(learnt, segments, tmp_path / "whole"))
    real, parts = writing.write_part, []

    def stop(table, file):
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(table)
        real(table, file)

    monkeypatch.setattr(writing, "write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        encode_units.main(command(learnt, segments, tmp_path / "units"))
    again = []
    monkeypatch.setattr(writing, "write_part", lambda table, file: (again.append(table), real(table, file)))
    encode_units.main(command(learnt, segments, tmp_path / "units"))
    ids = [name for table in (*parts, *again) for name in table["id"].to_pylist()]
    assert parts and again and sorted(ids) == sorted(read_units(tmp_path / "whole").rows["id"].to_pylist())
    for name in FILES:
        assert (tmp_path / "units" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_new_recordings_get_the_units_of_the_model(learnt, tmp_path):
    new = write_tiny_segments(tmp_path / "new", train=3, dev=1, seconds=1.5)
    encode_units.main(command(learnt, new, tmp_path / "units"))
    table = read_units(tmp_path / "units")
    assert table.identity == AcousticUnitsModel.from_pretrained(learnt / "model").identity()
    assert len(table.rows) == 4


def test_a_model_of_another_kind_is_named(segments, tmp_path):
    whisper = save_tiny_whisper(tmp_path / "whisper")
    with pytest.raises(UserError, match="it is of type whisper, not acoustic_units"):
        encode_units.main([f"--model={whisper}", f"--corpus={segments}", f"--output_dir={tmp_path / 'units'}"])
