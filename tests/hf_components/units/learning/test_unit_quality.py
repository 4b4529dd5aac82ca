"""Purity and mutual information against scikit-learn and by hand; figures without labels rise and fall as they
should."""

import numpy as np
import pyarrow
import pytest
from PIL import Image
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score
from tiny_motifs import unit_rows

from hf_components.units.learning.phone_labels import Phones
from hf_components.units.learning.quality import agreement, label_free_figures, phone_agreement, plot_sweep

pytestmark = pytest.mark.unit


def test_agreement_by_hand():
    found = agreement(np.array([0, 0, 0, 1, 1, 5]), np.array(["a", "a", "b", "b", "b", "c"]))
    assert found["phone_purity"] == pytest.approx((2 + 2 + 1) / 6)
    assert found["cluster_purity"] == pytest.approx((2 + 2 + 1) / 6)


@pytest.mark.parametrize("seed", range(3))
def test_information_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(12, size=3000)
    units = np.where(rng.random(3000) < 0.7, labels * 3 + rng.integers(3, size=3000), rng.integers(40, size=3000))
    found = agreement(units, labels)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, units), abs=1e-12)
    assert found["pnmi"] == pytest.approx(
        mutual_info_score(labels, units) / mutual_info_score(labels, labels), abs=1e-12
    )


def test_extremes():
    labels = np.arange(100) % 5
    assert agreement(labels + 7, labels) == pytest.approx(
        {"phone_purity": 1, "cluster_purity": 1, "pnmi": 1, "nmi": 1}
    )
    constant = agreement(np.zeros(100, int), labels)
    assert constant == pytest.approx({"phone_purity": 0.2, "cluster_purity": 1, "pnmi": 0, "nmi": 0})
    every = agreement(np.arange(100), labels)
    assert (every["phone_purity"], every["pnmi"]) == pytest.approx((1, 1)) and every[
        "cluster_purity"
    ] == pytest.approx(0.05)


def test_frames_without_a_phone_take_no_part():
    table = unit_rows([(0, 5), (1, 5)], [(2, 4)])
    labels = {"a": Phones(np.array([0.0, 0.1]), np.array([0.1, 0.15]), np.array(["x", "y"]))}
    found = phone_agreement(table, labels, seed=0)  # the second segment starts at 100 s
    assert (found["labelled_frames"], found["phones"]) == (7, 2) and found["nmi"] == pytest.approx(1)
    assert phone_agreement(table, {}, seed=0) == {"labelled_frames": 0, "phones": 0}


def test_chance_is_what_shuffled_units_reach():
    rng = np.random.default_rng(0)
    table = unit_rows([(int(unit), 1) for unit in rng.integers(30, size=600)])
    phones = Phones(0.1 * np.arange(120), 0.1 * np.arange(1, 121), rng.choice(list("abcdef"), 120))
    found = phone_agreement(table, {"a": phones}, seed=0)
    assert found["nmi"] == pytest.approx(found["nmi_by_chance"], abs=0.04) and found["nmi_by_chance"] > 0.02


def speech_like(count: int, seed: int, noise: float, offset: int = 0) -> pyarrow.Table:
    """Segments made of five words over eleven units; with `noise`, units are drawn by chance instead."""
    words = [[0, 1, 2], [3, 4, 5, 6], [7, 8], [2, 9, 4], [10, 1]]
    rng = np.random.default_rng(seed)
    segments = []
    for _ in range(count):
        units = [unit for word in rng.integers(5, size=12) for unit in words[word]]
        units = [int(rng.integers(11)) if rng.random() < noise else unit for unit in units]
        segments.append([(unit + offset * (len(segments) % 2), 2) for unit in units])
    return unit_rows(*segments)


def figures(noise: float, offset: int = 0) -> dict:
    return label_free_figures(
        speech_like(60, 0, noise, offset), speech_like(20, 1, noise, offset), {"num_units": 22}, seed=0
    )


def test_order_is_lost_in_noise():
    found = [figures(noise)["order"] for noise in (0, 0.3, 1)]
    assert found[0] > 1.4 > found[1] > 1.1 > found[2] > 0.9


def test_units_that_tell_the_speaker():
    assert figures(0)["speaker_nmi"] < 0.05 and figures(0, offset=11)["speaker_nmi"] > 0.3


def test_unknown_speakers_are_left_out_of_the_agreement_with_speakers():
    held_out = speech_like(20, 1, 0, 11)
    for names, known in ((["unknown"] * 20, 0), (["a", "unknown"] * 10, 1), (["a", "b", "unknown", "b"] * 5, 2)):
        rows = held_out.set_column(4, "speaker_id", [names])
        found = label_free_figures(speech_like(60, 0, 0, 11), rows, {"num_units": 22}, seed=0)["speaker_nmi"]
        assert (found is not None) == (known == 2)


def test_bits_are_the_entropy_of_runs_times_their_rate():
    table = unit_rows([(0, 5), (1, 5)] * 10)
    found = label_free_figures(table, table, {"num_units": 2}, seed=0)
    assert found["bits_per_second"] == pytest.approx(20 / 2.0) and found["speaker_nmi"] is None


@pytest.mark.parametrize(("layers", "sizes"), [([None], [10, 20]), ([1, 2, 3], [10]), ([1, 2], [10, 20, 30])])
def test_plot(tmp_path, layers, sizes):
    rows = [
        {
            "layer": layer,
            "num_units": size,
            "nmi": 0.3,
            "phone_purity": 0.5,
            "cluster_purity": 0.2,
            "order": 1.2,
            "speaker_nmi": None,
            "bits_per_second": 90.0,
        }
        for layer in layers
        for size in sizes
    ]
    plot_sweep(tmp_path / "sweep.png", rows, "title")
    assert Image.open(tmp_path / "sweep.png").size == (1440, 816)
