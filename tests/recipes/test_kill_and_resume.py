"""A pipeline killed in the middle of training and resumed ends as one that was left alone, byte for byte."""

import json
import os
import subprocess
import sys

import kill_and_resume
import pytest
from kill_and_resume import Moment, differences, moments, read_again
from killed_pipelines import PIPELINES
from paths import ROOT


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(tmp_path):
    """One of the moments that `python tests/support/kill_and_resume.py moe` goes through."""
    assert kill_and_resume.main(["moe", "--output_dir", str(tmp_path), "--stages", "experts"]) == 0
    log = (tmp_path / "experts_step_3" / "log.txt").read_text()
    assert "router is complete, skipped" in log and "experts written in" in log


@pytest.mark.slow
def test_killed_while_a_recording_is_cut(tmp_path):
    """One of the moments that `python tests/support/kill_and_resume.py units` goes through."""
    assert kill_and_resume.main(["units", "--output_dir", str(tmp_path), "--stages", "segments"]) == 0
    read = next(tmp_path.glob("segments_*/read.txt")).read_text().split()
    assert len(read) == 5 and len(set(read)) == 4  # the one that was in work again, and no other


@pytest.mark.unit
def test_moments_cover_every_stage():
    counts = {"corpus file": 21, "experts file": 27, "experts step": 6, "joint file": 86, "joint step": 18}
    more = PIPELINES["moe"].more
    assert moments(counts, None, more) == [
        Moment("corpus", "file", 11),
        Moment("experts", "step", 3),
        Moment("joint", "step", 3),
        Moment("joint", "step", 9),
        Moment("joint", "step", 15),
    ]
    assert moments(counts, ["experts"], more) == [Moment("experts", "step", 3)]


@pytest.mark.unit
def test_moments_in_places():
    counts = {"units file": 20, "units kmeans": 4, "vocoder file": 30, "vocoder step": 24}
    assert moments(counts, None, {"units": (("kmeans", 0.5),)}) == [
        Moment("units", "file", 10),
        Moment("units", "kmeans", 2),
        Moment("vocoder", "step", 12),
    ]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("read", "found"),
    [("a b c", []), ("a b b c", []), ("a b b b c", ["read again: b"]), ("a b a b", ["read again: a, b"])],
)
def test_recordings_read_again_are_found(tmp_path, read, found):
    (tmp_path / "read.txt").write_text(read.replace(" ", "\n"))
    assert read_again(tmp_path) == found


@pytest.mark.unit
def test_differences_are_found_and_times_are_none(tmp_path):
    for run, seconds, wer, weights in (
        ("one", 1.5, 0.25, b"bits"),
        ("same", 2.5, 0.25, b"bits"),
        ("other", 1, 0.5, b"bots"),
    ):
        folder = tmp_path / run / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        figures = {
            "seconds": seconds,
            "real_time_factor": seconds,
            "rows": [{"wer": wer}],
            "output_dir": str(tmp_path / run),
        }
        (tmp_path / run / "results.json").write_text(json.dumps(figures))
        (folder / "0.eaf").write_text(f'<ANNOTATION_DOCUMENT DATE="2026-01-0{seconds:.0f}" VERSION="{wer}">')
        (folder / "README.md").write_text(f"WER {wer}, RTF {seconds:.3f}, {seconds:.0f} minutes in {tmp_path / run}\n")
    (tmp_path / "other" / "more").touch()
    assert differences(tmp_path / "one", tmp_path / "same") == []
    assert [line.split(": ")[0] for line in differences(tmp_path / "one", tmp_path / "other")] == [
        "more",
        "model/0.eaf",
        "model/README.md",
        "model/model.safetensors",
        "results.json",
    ]


@pytest.mark.integration
def test_it_starts_as_it_documents():
    """From the root of the project, with nothing on the path but the script's own folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "tests/support/kill_and_resume.py", "--help"], cwd=ROOT, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
