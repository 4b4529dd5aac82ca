"""Occurrences, durations and compression of motifs, against what can be counted by hand."""

import numpy as np
import pytest
from tiny_motifs import TABLE, pair_motif, unit_rows

from hf_components.units.motifs.analysis import list_motifs, measure_compression
from hf_components.units.motifs.bpe import Motifs, find_occurrences, save_motifs, train_motifs

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def motifs(tmp_path_factory):
    return pair_motif(tmp_path_factory.mktemp("motifs"))


def test_occurrences_cover_each_segment(motifs):
    found = find_occurrences(motifs, TABLE)
    assert found.row.tolist() == [0, 0, 0, 2, 3, 3]
    assert [motifs.units[motif] for motif in found.motif] == [[0, 1], [2], [0, 1], [3], [2], [0, 1]]
    assert found.unit.tolist() == [0, 2, 3, 0, 0, 1]
    assert found.start == pytest.approx([0, 0.1, 0.12, 0, 0, 0.02])
    assert found.end == pytest.approx([0.1, 0.12, 0.16, 0.1, 0.02, 0.14])


def test_describes_runs(motifs):
    (run,) = list_motifs(motifs, TABLE, find_occurrences(motifs, TABLE))
    assert run == {
        "id": 4,
        "name": "m4",
        "units": [0, 1],
        "length": 2,
        "count": 3,
        "segments": 2,
        "recordings": 1,
        "speakers": 2,
        "voices": "2 speakers",
        "seconds": {"mean": 0.0867, "min": 0.04, "max": 0.12},
    }


def test_a_motif_that_does_not_occur_has_no_seconds(motifs):
    (run,) = list_motifs(motifs, TABLE.slice(2, 1), find_occurrences(motifs, TABLE.slice(2, 1)))
    assert (run["count"], run["segments"], run["seconds"]) == (0, 0, None)


def test_compression(motifs):
    found = find_occurrences(motifs, TABLE)
    measured = measure_compression(motifs, TABLE, found, seed=0)
    expected = {
        "segments": 4,
        "frames": 20,
        "seconds": 0.4,
        "units": 9,
        "motifs": 6,
        "units_per_motif": 1.5,
        "frames_per_unit": 2.2222,
        "units_in_runs": 0.6667,
        "seconds_per_motif": 0.0667,
        "bits_ratio": round(9 * 2 / (6 * np.log2(9)), 4),
    }
    assert {name: measured[name] for name in expected} == expected


def test_order_is_what_compresses(tmp_path):
    rng = np.random.default_rng(0)
    words = [[0, 1, 2], [3, 4, 5, 6], [7, 8]]
    table = unit_rows(*([(unit, 2) for word in rng.integers(3, size=20) for unit in words[word]] for _ in range(20)))
    save_motifs(
        tmp_path,
        train_motifs(table["deduplicated"].to_pylist(), 9, 25),
        {"encoder": "mfcc", "layer": None, "num_units": 9, "centroids_sha256": "0"},
    )
    motifs = Motifs.from_pretrained(tmp_path)
    measured = measure_compression(motifs, table, find_occurrences(motifs, table), seed=0)
    assert measured["units_per_motif"] > 2.5 > 1.6 > measured["units_per_motif_shuffled"]


def test_no_segments(motifs):
    empty = TABLE.slice(0, 0)
    found = find_occurrences(motifs, empty)
    assert measure_compression(motifs, empty, found, seed=0)["units_per_motif"] is None
    assert list_motifs(motifs, empty, found)[0]["count"] == 0
