"""ABX against small cases that were computed by hand: fastabx, the reference, needs Python 3.12."""

import itertools

import numpy as np
import pytest

from hf_components.units.evaluation.abx import Token, abx_error, dtw, score_tokens, tokens_of

pytestmark = pytest.mark.unit


def token(centre: str, units: list[int], speaker: str = "s", recording: str = "r") -> Token:
    return Token(("p", centre, "q"), speaker, recording, np.array(units))


def slow_dtw(a: list[int], b: list[int]) -> float:
    """The least cost over all paths, with the length of the path that the rule of ties chooses."""
    table = {(-1, -1): (0, 0)}
    for i, j in itertools.product(range(len(a)), range(len(b))):
        before = [table[at] for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if at in table]
        cost, length = min(before, key=lambda way: way[0])
        table[i, j] = cost + (a[i] != b[j]), length + 1
    cost, length = table[len(a) - 1, len(b) - 1]
    return cost / length


def test_distances_by_hand():
    pairs = [([1, 1], [1, 1]), ([1, 1], [2, 2]), ([1, 2], [1, 1]), ([1, 2, 3], [1, 4, 3]), ([1], [1, 1, 1, 2])]
    found = dtw([np.array(a) for a, _ in pairs], [np.array(b) for _, b in pairs])
    assert found.tolist() == pytest.approx([0, 1, 1 / 2, 1 / 3, 1 / 4])


def test_distances_are_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    pairs = [[rng.integers(3, size=rng.integers(1, 9)) for _ in "ab"] for _ in range(200)]
    expected = [slow_dtw(a.tolist(), b.tolist()) for a, b in pairs]
    assert dtw(*zip(*pairs, strict=True)) == pytest.approx(expected)


def test_within_a_speaker_by_hand():
    tokens = [token("a", [1, 1]), token("a", [2, 2]), token("b", [1, 2]), token("b", [1, 1])]
    # Centre a: X = 11 loses to both B, X = 22 loses to 12 and ties with 11: 3.5 of 4 triples.
    # Centre b: X = 12 ties twice, X = 11 loses to 11 and wins against 22: 2 of 4 triples.
    figures, interval = score_tokens(tokens, "within", 10, 100, 0)
    assert figures == {"error": pytest.approx((3.5 / 4 + 2 / 4) / 2), "triples": 8, "cells": 2, "pairs": 2}
    assert interval is None  # one recording


def test_across_speakers_by_hand():
    tokens = [token("a", [1, 1]), token("b", [1, 2]), token("a", [1, 1], "t", "r2"), token("a", [2, 2], "u", "r3")]
    # A and B of s. X of t equals A: right. X of u is 1 from A and 1/2 from B: wrong.
    figures, interval = score_tokens(tokens, "across", 10, 200, 0)
    assert (figures["error"], figures["triples"], figures["cells"], figures["pairs"]) == (0.5, 2, 2, 1)
    assert interval == [0, 1]
    assert score_tokens(tokens, "within", 10, 100, 0)[0]["error"] is None  # no speaker has two tokens of a triphone


def test_units_that_know_nothing_are_at_chance_and_units_that_are_phones_are_perfect():
    rng = np.random.default_rng(0)
    phones = np.repeat(rng.choice(list("aiktu"), 1500), 4)
    row = {"speaker_id": "s", "phones": phones}
    right = [{**row, "source_file": f"{i}.wav", "units": np.unique(phones, return_inverse=True)[1]} for i in range(2)]
    wrong = [{**of, "units": rng.integers(5, size=len(phones))} for of in right]
    assert abx_error(right, "within", 5, 50, 0)["error"] == 0
    found = abx_error(wrong, "within", 5, 50, 0)
    assert found["error"] == pytest.approx(0.5, abs=0.03)
    low, high = found["interval"]
    assert low <= found["error"] <= high


def test_triphones_of_a_segment():
    phones = np.array(["", "p", "p", "a", "q", "q", "", "q"])
    (found,) = tokens_of(np.arange(8), phones, "s", "r")
    assert found.phones == ("p", "a", "q")
    assert found.units.tolist() == [1, 2, 3, 4, 5]


def test_across_needs_two_known_speakers():
    row = {"units": np.array([1, 2, 3]), "phones": np.array(["p", "a", "q"]), "source_file": "r.wav"}
    rows = [{**row, "speaker_id": name} for name in ("s", "unknown")]
    assert abx_error(rows, "across", 5, 10, 0)["reason"] == "it needs two known speakers or more, got 1"
