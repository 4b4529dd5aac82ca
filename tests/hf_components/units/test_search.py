"""Query by example: the warping is that of a plain loop, and an example is found where it is said."""

import numpy as np
import pyarrow
import pytest
import torch
from tiny_units import babble

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime.errors import UserError
from hf_components.units.search import example, find_example
from hf_components.units.search.dtw import Hit, best_paths, hits_of

pytestmark = pytest.mark.unit


def plain(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost and start for `(example, frames)`, cell by cell."""
    cells = {}
    for i in range(costs.shape[0]):
        for j in range(costs.shape[1]):
            ways = [cells[way] for way in ((i, j - 1), (i - 1, j), (i - 1, j - 1)) if way in cells]
            if i == 0 or not ways:
                cells[i, j] = (costs[i, j], 1, j) if i == 0 else (np.inf, 1, j)
                continue
            total, length, start = min(ways, key=lambda way: (way[0] + costs[i, j]) / (way[1] + 1))
            cells[i, j] = (total + costs[i, j], length + 1, start)
    last = [cells[costs.shape[0] - 1, j] for j in range(costs.shape[1])]
    return np.array([total / length for total, length, _ in last]), np.array([start for *_, start in last])


@pytest.mark.parametrize(("example_frames", "frames"), [(7, 30), (1, 5), (6, 3)])
def test_paths_are_those_of_a_plain_loop(example_frames, frames):
    costs = np.random.default_rng(0).random((4, example_frames, frames))
    mean, start = best_paths(costs)
    for row in range(4):
        expected, starts = plain(costs[row])
        np.testing.assert_allclose(mean[row], expected)
        assert start[row].tolist() == starts.tolist()


def test_hits_do_not_overlap_and_are_about_as_long_as_the_example():
    mean = np.array([[9, 1, 2, 9, 3, 9, 9, 0.5]])
    start = np.array([[0, 0, 1, 2, 3, 4, 5, 0]])
    assert hits_of(mean, start, 2, most=5, segments=[4]) == [
        Hit(4, 0, 2, 1.0),
        Hit(4, 3, 5, 3.0),
        Hit(4, 5, 7, 9.0),
    ]
    assert hits_of(mean, start, 2, most=1, segments=[4]) == [Hit(4, 0, 2, 1.0)]


@pytest.fixture(scope="module")
def corpus():
    """Six segments of babble, one of which holds the example, and their units."""
    clips = [babble(2.0, seed) for seed in range(6)]
    model = AcousticUnitsModel.from_encoder("mfcc", num_units=40)
    frames = torch.cat([model.features(torch.from_numpy(clip)[None])[0][0] for clip in clips])
    model.set_centroids(frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:40]])
    rows = pyarrow.table({"units": [model.encode(clip).units.tolist() for clip in clips]})
    return model, clips, rows


@pytest.mark.parametrize("cells", [example.CELLS, 1])
def test_an_example_is_found_where_it_is_said(corpus, cells, monkeypatch):
    monkeypatch.setattr(example, "CELLS", cells)  # one segment at a time
    model, clips, rows = corpus
    said = range(30, 50)  # frames
    hits = find_example(model, clips[3][320 * said.start : 320 * said.stop], rows, most=4, per_segment=2)
    overlap = min(hits[0].end, said.stop) - max(hits[0].start, said.start)
    assert hits[0].segment == 3 and overlap > 0.8 * len(said)
    assert hits[0].cost < 0.5 * hits[1].cost
    assert [hit.cost for hit in hits] == sorted(hit.cost for hit in hits) and len(hits) == 4


def test_an_example_without_a_frame_is_refused(corpus):
    model, _, rows = corpus
    with pytest.raises(UserError, match="an example must have at least 0.025 s, got 0.013"):
        find_example(model, np.zeros(200, dtype=np.float32), rows, most=5, per_segment=1)
