"""Names that data give to files: every writer keeps them below its folder, and every reader stays in its own."""

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tiny_motifs import pair_motif, unit_rows

from hf_components.runtime.errors import UserError
from hf_components.runtime.files import leads_out, place_for, visible
from hf_components.units.table import units_schema
from hf_components.units.vocoder.report import Listener
from recipes import export_annotations

NAMES = {
    "up": "../../../outside/evil.wav",
    "up_in_the_middle": "a/../../evil.wav",
    "absolute": "/outside/evil.wav",
    "of_windows": "..\\..\\evil.wav",
    "nul": "a\0b.wav",
    "escape": "a\x1b[31mb.wav",
    "line_end": "a\nb.wav",
    "right_to_left": "a\u202egnp.wav",
    "dots": "..",
    "dot": ".",
    "nothing": "",
    "slash": "/",
    "long": "b" * 300 + ".wav",
    "4000_characters": "b" * 4000,
    "long_in_bytes": "é" * 200,
    "deep": "/".join("d" * 100 for _ in range(50)),
}


@pytest.mark.unit
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_place_is_below_its_folder_and_can_be_written(tmp_path, name):
    place = place_for(name)
    file = tmp_path / "out" / f"{place}.TextGrid"
    assert Path(os.path.normpath(file)).is_relative_to(tmp_path / "out") and ".." not in Path(place).parts
    file.parent.mkdir(parents=True)
    file.write_text("")
    assert place_for(place) == place and visible(place) == place


@pytest.mark.unit
def test_good_names_stay_and_no_two_names_share_a_place():
    good = ["a.wav", "speaker/a-00000100-00000200", "é/ü.wav", "…", ".hidden", "می‌روم.wav", "a b", "a\\b"]
    assert [place_for(name) for name in good] == good
    names = [
        *NAMES.values(),
        *good,
        "a/b",
        "a//b",
        "a/./b",
        "/a/b",
        "a/b/",
        "../a/b",
        "a\0",
        "a_",
        "\ud800",
        "b" * 301,
    ]
    assert len({place_for(name) for name in names}) == len(set(names))


@pytest.mark.unit
def test_what_leads_out():
    assert all(
        leads_out(name) for name in ("../a", "a/../b", "/a", "C:\\a", "C:a", "..\\a", "a\0", "", ".", "\\\\host\\a")
    )
    assert not any(leads_out(name) for name in ("a", "a/b..c", "...", "a\\b", "~/a", "a/./b"))


def annotate(tmp_path: Path, name: str) -> list[Path]:
    (tmp_path / "motifs").mkdir()
    motifs = pair_motif(tmp_path / "motifs")
    place = tmp_path / "a" / "b" / "c"
    (place / "units").mkdir(parents=True)
    table = unit_rows([(0, 2), (1, 3)])
    for column in ("source_file", "id"):
        table = table.set_column(table.column_names.index(column), column, pyarrow.array([name]))
    table = table.replace_schema_metadata(units_schema(motifs.identity).metadata)
    pyarrow.parquet.write_table(table, place / "units" / "units.parquet")
    words = [
        "--units_dir",
        place / "units",
        "--motifs_dir",
        tmp_path / "motifs",
        "--output_dir",
        place / "annotations",
    ]
    export_annotations.main(list(map(str, words)))
    if leads_out(name):
        with pytest.raises(UserError, match="which is not in recordings"):
            export_annotations.find_recording("recordings", name)
    written = [path for path in (place / "annotations").rglob("*") if path.suffix in (".TextGrid", ".eaf")]
    assert len(written) == 2 and not any("\x1b" in path.read_text() or "\0" in path.read_text() for path in written)
    return [
        *written,
        *(place / "units").iterdir(),
        *(tmp_path / "motifs").iterdir(),
        place / "annotations" / "stage.json",
    ]


class Crops:
    """A held-out segment whose id is the name."""

    def __init__(self, name: str):
        self.units = [[0]]
        self.corpus = [{"id": name}]

    def whole(self, index: int) -> dict:
        return {"waveform": torch.zeros(400)}


class Silence(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, **inputs):
        return torch.zeros(1, 400)


def speak(tmp_path: Path, name: str) -> list[Path]:
    Listener(Crops(name), 1, 0, tmp_path / "a" / "b" / "vocoder", plot=False).hear(Silence(), "epoch_1")
    written = list((tmp_path / "a" / "b" / "vocoder").rglob("*.wav"))
    assert len(written) == 2
    return written


@pytest.mark.integration
@pytest.mark.parametrize("writer", [annotate, speak])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_writer_stays_in_its_folder(tmp_path, monkeypatch, request, writer, name):
    monkeypatch.chdir(request.config.rootpath)
    expected = writer(tmp_path, name)
    found = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    assert sorted(found) == sorted(expected)
    assert not Path("/outside").exists()


@pytest.mark.unit
def test_visible():
    assert visible("a\x1b[31m\r\n\u202eb\u200b\0\x9b\u2028") == r"a\x1b[31m\r\n\u202eb\u200b\x00\x9b\u2028"
    assert visible("نمی\u200cخواهم, हिन्दी, 😀") == "نمی\u200cخواهم, हिन्दी, 😀"
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert json.loads(json.dumps(visible("\ud800"))) == r"\ud800"
