"""The recipe import_annotations: what was exported comes back, with corrections; what cannot be units is named."""

import json
import shutil
from pathlib import Path

import pytest
from pympi.Elan import Eaf
from tiny_units import write_tiny_segments

from hf_components.runtime.errors import UserError
from hf_components.units.learning import learner
from hf_components.units.table import read_units
from recipes import export_annotations, import_annotations, learn_motifs, learn_units

pytestmark = pytest.mark.integration

FILES = ("units.parquet", "units.json", "all_units_for_bpe.txt", "model/model.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corrections")
    segments = write_tiny_segments(folder / "segments", train=4, dev=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "SAMPLE", 200)
        learn_units.main(
            ["--model=mfcc", "--num_units=10", f"--corpus={segments}", f"--output_dir={folder / 'units'}"]
        )
    learn_motifs.main([f"--units_dir={folder / 'units'}", f"--output_dir={folder / 'motifs'}", "--vocab_size=30"])
    export_annotations.main(
        [f"--units_dir={folder / 'units'}", f"--motifs_dir={folder / 'motifs'}"]
        + [f"--output_dir={folder / 'annotations'}"]
    )
    return folder


def read_back(folders: Path, annotations: Path, out: Path, *more: str) -> dict:
    return import_annotations.main(
        [f"--annotations={annotations}", f"--units_dir={folders / 'units'}", f"--output_dir={out}", *more]
    )


@pytest.mark.parametrize("format", import_annotations.FORMATS)
def test_what_was_exported_comes_back(folders, tmp_path, format):
    counts = read_back(folders, folders / "annotations", tmp_path / "units", f"--format={format}")
    for name in FILES[1:]:
        assert (tmp_path / "units" / name).read_bytes() == (folders / "units" / name).read_bytes(), name
    assert read_units(tmp_path / "units").rows.equals(read_units(folders / "units").rows)
    assert counts["changed_units"] == 0 and counts["recordings"] == 2 and counts["motifs"] > 0
    lines = (tmp_path / "units" / "motifs.jsonl").read_text().splitlines()
    assert len(lines) == counts["motifs"] and json.loads(lines[0]).keys() == {"source_file", "start", "end", "motif"}


def correct(folders: Path, folder: Path, change) -> Path:
    """A copy of the annotations whose ELAN document of train is changed by `change(document)`."""
    shutil.copytree(folders / "annotations", folder)
    (file,) = folder.rglob("train.eaf")
    document = Eaf(str(file))
    change(document)
    document.to_file(str(file))
    return folder


def first(document: Eaf, tier: str, number: int = 0) -> tuple[int, int, str]:
    return sorted(document.get_annotation_data_for_tier(tier))[number]


def relabel(document: Eaf, label: str) -> None:
    start, end, _ = first(document, "units")
    document.remove_annotation("units", (start + end) // 2)
    document.add_annotation("units", start, end, label)


def test_a_corrected_unit_and_a_named_motif(folders, tmp_path):
    def change(document: Eaf) -> None:
        relabel(document, other)
        start, end, _ = first(document, "motifs")
        document.remove_annotation("motifs", (start + end) // 2)
        document.add_annotation("motifs", start, end, "water")

    before = read_units(folders / "units").rows.to_pylist()[0]
    other = str((before["units"][0] + 1) % 10)
    annotations = correct(folders, tmp_path / "annotations", change)
    untouched = read_back(folders, folders / "annotations", tmp_path / "units", "--format=eaf")
    counts = read_back(folders, annotations, tmp_path / "units", "--format=eaf")
    assert untouched["changed_units"] == 0  # and is not kept, though the record of the annotations is the same
    after = read_units(tmp_path / "units").rows.to_pylist()[0]
    length = before["durations"][0]
    assert counts["changed_units"] == length
    assert after["units"] == [int(other)] * length + before["units"][length:]
    assert sum(after["durations"]) == len(after["units"]) and after["deduplicated"][0] == int(other)
    motifs = [json.loads(line)["motif"] for line in (tmp_path / "units" / "motifs.jsonl").read_text().splitlines()]
    assert motifs.count("water") == 1


def shorten(document: Eaf) -> None:
    start, end, label = first(document, "units", 3)
    document.remove_annotation("units", (start + end) // 2)


def move(document: Eaf) -> None:
    start, end, label = first(document, "segments")
    document.remove_annotation("segments", (start + end) // 2)
    document.add_annotation("segments", start + 100, end, label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: relabel(document, "10"), r"a unit must be a number from 0 to 9, got '10' at 0\.00 s"),
        (lambda document: relabel(document, "a"), r"a unit must be a number from 0 to 9, got 'a'"),
        (shorten, "the units of train_0 must fill it from 0.00 to .* without gaps"),
        (move, "the segment train_0 must start at 0.000 s as before"),
        (lambda document: document.remove_tier("units"), "train.eaf has no tier 'units'"),
    ],
)
def test_what_cannot_be_units_is_named(folders, tmp_path, change, message):
    annotations = correct(folders, tmp_path / "annotations", change)
    with pytest.raises(UserError, match=message):
        read_back(folders, annotations, tmp_path / "units", "--format=eaf")


def test_another_folder_is_named(folders, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other has no .TextGrid of the recordings"):
        read_back(folders, tmp_path / "other", tmp_path / "units")
