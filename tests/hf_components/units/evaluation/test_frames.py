"""PNMI, purities and bitrate against scikit-learn, scipy and small cases."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from hf_components.units.evaluation.frames import bitrate, frame_figures

pytestmark = pytest.mark.unit


def segments(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        phones = np.repeat(rng.choice(["", "a", "k", "t"], 60), 3)
        noise = rng.integers(6, size=len(phones))
        units = np.where(rng.random(len(phones)) < 0.6, np.unique(phones, return_inverse=True)[1], noise)
        runs = units[np.flatnonzero(np.append(True, units[1:] != units[:-1]))]
        found.append({"source_file": f"{number // 2}.wav", "units": units, "phones": phones, "deduplicated": runs})
    return found


def test_pnmi_is_that_of_scikit_learn():
    rows = segments(8)
    figures, intervals = frame_figures(rows, 200, 0)
    units = np.concatenate([row["units"] for row in rows])
    phones = np.concatenate([row["phones"] for row in rows])
    spoken = phones != ""
    of_phones = entropy(np.unique(phones[spoken], return_counts=True)[1])
    assert figures["pnmi"] == pytest.approx(mutual_info_score(phones[spoken], units[spoken]) / of_phones)
    assert figures["frames"] == spoken.sum() and figures["phones"] == 3
    assert figures["pnmi_by_chance"] < 0.05 < figures["pnmi"]
    for name, (low, high) in intervals.items():
        assert low < figures[name] < high


def test_purities_by_hand():
    row = {"source_file": "r.wav", "units": np.array([0, 0, 0, 1]), "phones": np.array(["a", "a", "k", "k"])}
    figures, intervals = frame_figures([row], 100, 0)
    assert (figures["phone_purity"], figures["cluster_purity"]) == (0.75, 0.75)
    assert intervals["pnmi"] is None  # one recording


def test_bitrate_by_hand():
    row = {"source_file": "r.wav", "units": np.zeros(50), "deduplicated": np.array([0, 1, 2, 3, 0, 1, 2, 3])}
    assert bitrate([row], 100, 0) == (pytest.approx(16.0), None)  # 8 units of 2 bits in one second
