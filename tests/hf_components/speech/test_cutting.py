"""Recordings are cut at quiet places, and nothing of them is lost."""

import numpy as np
import pytest
from make_corpus import noise

from hf_components.speech.cutting import cut_at_quiet

pytestmark = pytest.mark.unit

RATE = 1000


def test_what_fits_is_left_whole():
    clip = noise(3.0, RATE)
    (piece,) = cut_at_quiet(clip, 3.0, RATE)
    assert piece is clip


def test_the_cut_is_in_the_middle_of_the_pause():
    clip = noise(5.0, RATE)
    clip[2200:2600] = 0.001 * clip[2200:2600]
    clip[2390:2410] = 0  # the quietest 0.2 s contain it
    first, second = cut_at_quiet(clip, 3.0, RATE)
    assert 2300 <= len(first) <= 2500 and len(first) + len(second) == 5000


def test_a_pause_before_the_last_third_is_not_looked_for():
    clip = noise(5.0, RATE)
    clip[500:900] = 0
    assert len(cut_at_quiet(clip, 3.0, RATE)[0]) >= 2000


@pytest.mark.parametrize("seconds", [3.001, 6.0, 29.9])
@pytest.mark.parametrize("silent", [False, True])
def test_pieces_joined_are_the_recording(seconds, silent):
    clip = np.zeros(round(seconds * RATE), np.float32) if silent else noise(seconds, RATE)
    pieces = cut_at_quiet(clip, 3.0, RATE)
    assert np.array_equal(np.concatenate(pieces), clip)
    assert all(0 < len(piece) <= 3000 for piece in pieces) and len(pieces) <= 2 + seconds / 2
