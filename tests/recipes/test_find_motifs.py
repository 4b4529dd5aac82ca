"""The recipe find_motifs, in-process: hits with their times, page, tiers, mistakes."""

import json

import numpy as np
import pytest
from praatio.textgrid import openTextgrid
from pympi.Elan import Eaf
from tiny_units import RATE, write_tiny_segments

from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode, encode_flac
from hf_components.speech.corpus import load_corpus, waveforms
from hf_components.units.learning import learner
from recipes import find_motifs, learn_units

pytestmark = pytest.mark.integration

START, END = 0.8, 1.2  # of the example, in its segment


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    segments = write_tiny_segments(folder / "segments", train=6, dev=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "SAMPLE", 400)
        learn_units.main(
            ["--model=mfcc", "--num_units=30", f"--corpus={segments}", f"--output_dir={folder / 'units'}"]
        )
    (segment,) = [row for row in load_corpus(segments)["train"] if row["id"] == "train_3"]
    (folder / "whole.flac").write_bytes(encode_flac(waveforms([segment])[0]))
    return folder


def search(folders, out, *more: str) -> dict:
    return find_motifs.main(
        [str(folders / "whole.flac"), f"--query_start={START}", f"--query_end={END}", f"--output_dir={out}"]
        + [f"--units_dir={folders / 'units'}", f"--corpus={folders / 'segments'}", *more]
    )


def test_the_example_is_the_nearest_hit_with_its_times(folders, tmp_path):
    found = search(folders, tmp_path / "hits", "--max_hits=6")
    assert json.loads((tmp_path / "hits" / "hits.json").read_text()) == found
    assert len(found["hits"]) == 6
    best = found["hits"][0]
    (segment,) = [row for row in load_corpus(folders / "segments")["train"] if row["id"] == "train_3"]
    assert best["segment"] == "train_3" and best["source_file"] == "train.mp3"
    assert best["start"] == pytest.approx(segment["start"] + START, abs=0.12)
    assert best["end"] == pytest.approx(segment["start"] + END, abs=0.12)
    assert [hit["cost"] for hit in found["hits"]] == sorted(hit["cost"] for hit in found["hits"])


def test_the_page_plays_the_hits_and_the_tiers_hold_them(folders, tmp_path):
    found = search(folders, tmp_path / "hits", "--max_hits=6", "--context_seconds=0")
    page = (tmp_path / "hits" / "index.html").read_text()
    for rank, hit in enumerate(found["hits"], start=1):
        assert f'src="clips/hit_{rank}.flac"' in page
        clip = decode(tmp_path / "hits" / "clips" / f"hit_{rank}.flac")
        assert len(clip) / RATE == pytest.approx(hit["end"] - hit["start"], abs=0.001)
    for source in {hit["source_file"] for hit in found["hits"]}:
        file = tmp_path / "hits" / "annotations" / source
        grid = openTextgrid(str(file.with_name(f"{file.name}.TextGrid")), includeEmptyIntervals=False)
        tier = grid.getTier("hits").entries
        eaf = Eaf(str(file.with_name(f"{file.name}.eaf")))
        expected = sorted(
            (hit["start"], rank) for rank, hit in enumerate(found["hits"], 1) if hit["source_file"] == source
        )
        assert [int(entry.label.split()[-1]) for entry in tier] == [rank for _, rank in expected]
        assert len(eaf.get_annotation_data_for_tier("hits")) == len(tier)
        np.testing.assert_allclose([entry.start for entry in tier], [start for start, _ in expected], atol=0.001)


@pytest.mark.parametrize("more", [["--query_start=9"], ["--query_end=0.5"]])  # it starts at 0.8
def test_an_example_outside_its_recording_is_named(folders, tmp_path, more):
    with pytest.raises(UserError, match="must lie in .*whole.flac, which lasts"):
        search(folders, tmp_path / "hits", *more)


def test_an_example_longer_than_all_segments_is_nowhere(folders, tmp_path):
    (tmp_path / "long.flac").write_bytes(encode_flac(np.tile(decode(folders / "whole.flac"), 5)))
    with pytest.raises(UserError, match="is nowhere in"):
        find_motifs.main(
            [str(tmp_path / "long.flac"), f"--output_dir={tmp_path / 'hits'}"]
            + [f"--units_dir={folders / 'units'}", f"--corpus={folders / 'segments'}"]
        )
