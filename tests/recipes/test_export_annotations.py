"""The stage export_annotations, in-process on made-up units."""

import json

import numpy as np
import parselmouth
import pytest
import soundfile
from parselmouth.praat import call
from praatio import textgrid
from pympi.Elan import Eaf
from tiny_units import write_tiny_segments, write_tiny_units

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import AudioError
from hf_components.units.motifs.annotations import Interval, write_eaf
from hf_components.units.motifs.bpe import Motifs
from hf_components.units.table import read_units
from recipes import learn_motifs
from recipes.export_annotations import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations")
    write_tiny_units(folder / "units", write_tiny_segments(folder / "segments"))
    learn_motifs.main(
        ["--units_dir", str(folder / "units"), "--output_dir", str(folder / "motifs"), "--vocab_size", "40"]
    )
    return folder


@pytest.fixture(scope="module")
def wav_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotations_of_wav")
    write_tiny_units(folder / "units", write_tiny_segments(folder / "segments", suffix=".wav"))
    learn_motifs.main(
        ["--units_dir", str(folder / "units"), "--output_dir", str(folder / "motifs"), "--vocab_size", "40"]
    )
    return folder


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def command(folders, output_dir, *more: str) -> list[str]:
    return [
        "--units_dir",
        str(folders / "units"),
        "--motifs_dir",
        str(folders / "motifs"),
        "--output_dir",
        str(output_dir),
        *more,
    ]


def boundaries(folders, split: str) -> list[tuple[float, float, str]]:
    """Of the units in the recording, straight from the units of each frame."""
    found = []
    for row in read_units(folders / "units").of_split(split).to_pylist():
        changes = [0, *(i for i, (a, b) in enumerate(zip(row["units"], row["units"][1:], strict=False), 1) if a != b)]
        ends = [*changes[1:], len(row["units"])]
        found += [
            (row["start"] + 0.02 * a, row["start"] + 0.02 * b, str(row["units"][a]))
            for a, b in zip(changes, ends, strict=True)
        ]
    return found


def test_both_formats_say_what_the_units_say(folders, tmp_path, capsys):
    counts = main(command(folders, tmp_path / "annotations"))
    assert {path.name for path in (tmp_path / "annotations").iterdir()} == {
        "train.TextGrid",
        "train.eaf",
        "dev.TextGrid",
        "dev.eaf",
        "stage.json",
    }
    assert counts["recordings"] == 2 and counts["segments"] == 9
    assert f"{counts['units']} units and {counts['motifs']} motifs of 2 recordings" in capsys.readouterr().out
    motifs = Motifs.from_pretrained(folders / "motifs")
    for split in ("train", "dev"):
        expected = boundaries(folders, split)
        grid = textgrid.openTextgrid(str(tmp_path / "annotations" / f"{split}.TextGrid"), includeEmptyIntervals=False)
        document = Eaf(tmp_path / "annotations" / f"{split}.eaf")
        units = grid.getTier("units").entries
        assert [unit.label for unit in units] == [label for _, _, label in expected]
        assert (
            np.abs(
                [[unit.start - start, unit.end - end] for unit, (start, end, _) in zip(units, expected, strict=True)]
            ).max()
            < 1e-6
        )
        in_elan = sorted(document.get_annotation_data_for_tier("units"))
        assert [label for _, _, label in in_elan] == [label for _, _, label in expected]
        assert (
            np.abs(
                [
                    [a - 1000 * start, b - 1000 * end]
                    for (a, b, _), (start, end, _) in zip(in_elan, expected, strict=True)
                ]
            ).max()
            <= 0.5 + 1e-6
        )
        for motif in grid.getTier("motifs").entries:
            inside = [int(unit.label) for unit in units if motif.start <= unit.start and unit.end <= motif.end]
            assert inside == motifs.units[int(motif.label.removeprefix("m"))]


def test_textgrids_are_as_long_as_the_recordings(wav_folders, tmp_path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("train", "dev"):
        soundfile.write(recordings / f"{name}.wav", np.zeros(50 * 16_000), 16_000)
    main(command(wav_folders, tmp_path / "annotations", "--recordings_dir", str(recordings)))
    grid = parselmouth.read(str(tmp_path / "annotations/dev.TextGrid"))
    assert grid.xmax == soundfile.info(recordings / "dev.wav").duration >= 50
    assert call(grid, "Get number of tiers") == 3
    (medium,) = Eaf(tmp_path / "annotations/dev.eaf").get_linked_files()
    assert (medium["MEDIA_URL"], medium["RELATIVE_MEDIA_URL"]) == (
        (recordings / "dev.wav").as_uri(),
        "../recordings/dev.wav",
    )
    assert not list((tmp_path / "annotations").glob("*.wav"))


@pytest.mark.parametrize("format", ["MP3", "OGG"])
def test_praat_hears_the_wav_beside_where_the_units_were_heard(folders, tmp_path, format):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    sound = np.zeros(50 * 44_100)
    sound[44_100:88_200] = 0.2 * np.random.default_rng(0).standard_normal(44_100)
    for name in ("train", "dev"):
        with soundfile.SoundFile(recordings / f"{name}.mp3", "w", 44_100, channels=1, format=format) as file:
            for block in np.split(sound, 100):  # libsndfile crashes where it writes Ogg in long blocks
                file.write(block)
    main(command(folders, tmp_path / "annotations", "--recordings_dir", str(recordings)))
    grid = parselmouth.read(str(tmp_path / "annotations/dev.TextGrid"))
    heard = parselmouth.Sound(str(tmp_path / "annotations/dev.wav"))
    assert heard.xmax == grid.xmax == pytest.approx(50, abs=0.1)
    assert np.argmax(np.abs(heard.values[0]) > 0.05) / heard.sampling_frequency == pytest.approx(1, abs=0.01)
    (medium,) = Eaf(tmp_path / "annotations/dev.eaf").get_linked_files()
    assert medium["RELATIVE_MEDIA_URL"] == "dev.wav"


def test_a_recording_that_is_not_there_is_named(folders, tmp_path):
    (tmp_path / "recordings").mkdir()
    with pytest.raises(AudioError, match="train.mp3: unreadable audio: No such file"):
        main(command(folders, tmp_path / "annotations", "--recordings_dir", str(tmp_path / "recordings")))


def test_a_recording_may_end_a_hair_before_its_last_segment_and_no_more(folders, tmp_path):
    """At 44.1 kHz a recording is no whole number of samples at 16 kHz, and the last segment may end with it."""
    recordings, rows = tmp_path / "recordings", read_units(folders / "units").rows
    recordings.mkdir()
    ends = {
        name: max(row["start"] + row["duration"] for row in rows.to_pylist() if row["split"] == name)
        for name in ("train", "dev")
    }
    for name, end in ends.items():
        soundfile.write(recordings / f"{name}.mp3", np.zeros(int(44_100 * end)), 44_100, format="WAV")
    assert any(int(44_100 * end) / 44_100 < end for end in ends.values())
    main(command(folders, tmp_path / "annotations", "--recordings_dir", str(recordings)))
    grid = textgrid.openTextgrid(str(tmp_path / "annotations/dev.TextGrid"), includeEmptyIntervals=False)
    assert grid.maxTimestamp == pytest.approx(ends["dev"], abs=1e-6)
    soundfile.write(recordings / "dev.mp3", np.zeros(44_100), 44_100, format="WAV")
    with pytest.raises(
        UserError,
        match=r"dev.mp3 ends at 1.00 s, but its last segment at .* s: it is not the recording that was segmented",
    ):
        main(command(folders, tmp_path / "others", "--recordings_dir", str(recordings)))


def test_a_document_is_replaced_without_a_trace(tmp_path):
    for _ in range(2):
        write_eaf(tmp_path / "a.eaf", {"segments": [Interval(0, 1, "a")]}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.eaf"]


def test_motifs_of_other_units_are_refused(folders, tmp_path):
    other = tmp_path / "motifs"
    other.mkdir()
    for file in (folders / "motifs").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "stage.json").unlink()  # else the change is noticed first
    settings = json.loads((other / "tokenizer_config.json").read_text())
    settings["units"]["centroids_sha256"] = "f" * 64
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="must be of the same units, but have centroids_sha256"):
        main(command(folders, tmp_path / "annotations", "--motifs_dir", str(other)))
