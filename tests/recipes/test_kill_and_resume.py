"""A pipeline killed in the middle of training and resumed ends as one that was left alone, byte for byte."""

import json

import kill_and_resume
import pytest
from kill_and_resume import Moment, differences, moments


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(tmp_path):
    """One of the moments that `python tests/kill_and_resume.py` goes through."""
    assert kill_and_resume.main(["--output_dir", str(tmp_path), "--stages", "experts"]) == 0
    log = (tmp_path / "experts_step_3" / "log.txt").read_text()
    assert "router is complete, skipped" in log and "experts written in" in log


@pytest.mark.unit
def test_moments_cover_every_stage():
    counts = {"corpus file": 21, "experts file": 27, "experts step": 6, "joint file": 86, "joint step": 18}
    assert moments(counts, None) == [
        Moment("corpus", "file", 11), Moment("experts", "step", 3), Moment("joint", "step", 3), Moment("joint", "step", 9),
        Moment("joint", "step", 15)]
    assert moments(counts, ["experts"]) == [Moment("experts", "step", 3)]


@pytest.mark.unit
def test_differences_are_found_and_times_are_none(tmp_path):
    for run, seconds, wer, weights in (("one", 1.5, 0.25, b"bits"), ("same", 2.5, 0.25, b"bits"), ("other", 1, 0.5, b"bots")):
        folder = tmp_path / run / "model"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights)
        figures = {"seconds": seconds, "real_time_factor": seconds, "rows": [{"wer": wer}], "output_dir": str(tmp_path / run)}
        (tmp_path / run / "results.json").write_text(json.dumps(figures))
        (folder / "README.md").write_text(f"WER {wer}, RTF {seconds:.3f}, {seconds:.0f} minutes in {tmp_path / run}\n")
    (tmp_path / "other" / "more").touch()
    assert differences(tmp_path / "one", tmp_path / "same") == []
    assert [line.split(": ")[0] for line in differences(tmp_path / "one", tmp_path / "other")] == [
        "more", "model/README.md", "model/model.safetensors", "results.json"]
