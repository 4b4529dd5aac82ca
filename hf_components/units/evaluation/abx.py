"""ABX: is a triphone X more like A, another token of the same triphone, than like B, which differs in its centre?

A task of Schatz et al. 2013 (https://doi.org/10.21437/Interspeech.2013-441), as the ZeroSpeech challenges score it.
The distance of two tokens is that of dynamic time warping: the mean cost along the cheapest path of their frames,
where two frames cost 0 if their units are equal, else 1. A tie counts one half, so that chance is 0.5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from hf_components.speech import known_speakers
from hf_components.units.evaluation.resampling import bootstrap_interval, numbered

PAIRS_AT_ONCE = 20_000  # pairs of tokens whose distances are computed together
LONGEST = 60  # frames of a token; longer ones hold a pause, and cost most of the time
TASKS = ("within", "across")

ByCentre = dict[str, dict[str, list[int]]]  # numbers of tokens by centre and speaker


@dataclass(frozen=True)
class Token:
    """A triphone that somebody said: `phones` before, in and after the centre; `units` of all its frames."""

    phones: tuple[str, str, str]
    speaker: str
    recording: str
    units: np.ndarray


class Cell(NamedTuple):
    """Triples that share context and speakers: two centres, and the numbers of the tokens A, B and X."""

    centres: tuple[str, str]
    a: list[int]
    b: list[int]
    x: list[int]


def tokens_of(units: np.ndarray, phones: np.ndarray, speaker: str, recording: str) -> Iterator[Token]:
    """The triphones of a segment; `phones` are those of its frames, "" for none."""
    changes = np.flatnonzero(phones[1:] != phones[:-1]) + 1
    starts = [0, *changes.tolist()]
    ends = [*changes.tolist(), len(phones)]
    for i in range(1, len(starts) - 1):
        three = tuple(str(phones[starts[i + step]]) for step in (-1, 0, 1))
        begin = starts[i - 1]
        end = ends[i + 1]
        if all(three) and end - begin <= LONGEST:
            yield Token(three, speaker, recording, units[begin:end])


def abx_error(segments: Sequence[dict], task: str, most_tokens: int, num_bootstrap: int, seed: int) -> dict:
    """Share of triples in which X is more like B than like A, and its interval over the recordings of X.

    Errors are averaged within a cell (two centres, their context, the speakers), then over the contexts and speakers
    of the two centres, then over the pairs of centres: frequent sounds count as much as rare ones.

    Args:
        segments: rows of `align_segments`.
        task: `within` (A, B and X are of one speaker) or `across` (A and B of one speaker, X of another). Where nobody
            named the speaker, each recording is taken for one speaker within, and left out across.
        most_tokens: tokens of a triphone and speaker that take part, drawn at random if there are more.
    Returns:
        `error` and `interval`, `triples`, `cells` and `pairs` of centres; `reason` if there is nothing to compare.
    """
    named = known_speakers(row["speaker_id"] for row in segments)
    tokens = []
    for row in segments:
        is_named = row["speaker_id"] in named
        if is_named or task == "within":
            speaker = row["speaker_id"] if is_named else f"unknown, {row['source_file']}"
            tokens += tokens_of(row["units"], row["phones"], speaker, row["source_file"])
    if task == "across" and len(named) < 2:
        reason = f"it needs two known speakers or more, got {len(named)}"
    else:
        reason = "no two triphones differ in their centre alone; align more speech"
    figures, interval = score_tokens(tokens, task, most_tokens, num_bootstrap, seed)
    return {**figures, "interval": interval, "reason": reason if figures["error"] is None else None}


def score_tokens(
    tokens: Sequence[Token], task: str, most_tokens: int, num_bootstrap: int, seed: int
) -> tuple[dict, list[float] | None]:
    """The figures of `abx_error` for these tokens, and the interval."""
    contexts = _drawn(tokens, most_tokens, np.random.default_rng(seed))
    cells = [cell for by_centre in contexts.values() for cell in _cells(by_centre, task)]
    counts = {"error": None, "triples": 0, "cells": len(cells), "pairs": len({cell.centres for cell in cells})}
    if not cells:
        return counts, None
    recording, names = numbered([token.recording for token in tokens])
    errors, triples = _errors(cells, _Distances(tokens, cells), recording, len(names))
    _, pair = np.unique([" ".join(cell.centres) for cell in cells], return_inverse=True)

    def figure(drawn: np.ndarray) -> np.ndarray:
        compared = triples @ drawn.T  # (cells, resamples)
        has_any = compared > 0
        rate = (errors @ drawn.T) / np.where(has_any, compared, 1)
        of_pair = np.zeros((int(pair.max()) + 1, len(drawn)))
        cells_of_pair = np.zeros_like(of_pair)
        np.add.at(of_pair, pair, rate * has_any)
        np.add.at(cells_of_pair, pair, has_any)
        means = of_pair / np.where(cells_of_pair > 0, cells_of_pair, 1)
        pairs = (cells_of_pair > 0).sum(0)
        return np.where(pairs > 0, means.sum(0) / np.where(pairs > 0, pairs, 1), np.nan)

    counts |= {"error": float(figure(np.ones((1, len(names))))[0]), "triples": int(triples.sum())}
    return counts, bootstrap_interval(figure, len(names), num_bootstrap, seed)


def _drawn(tokens: Sequence[Token], most_tokens: int, rng: np.random.Generator) -> dict[tuple[str, str], ByCentre]:
    """Numbers of the tokens that take part: by context, centre and speaker."""
    contexts: dict[tuple[str, str], ByCentre] = {}
    for number, token in enumerate(tokens):
        before, centre, after = token.phones
        by_centre = contexts.setdefault((before, after), {})
        by_centre.setdefault(centre, {}).setdefault(token.speaker, []).append(number)
    for by_centre in contexts.values():
        for by_speaker in by_centre.values():
            for speaker, members in by_speaker.items():
                by_speaker[speaker] = sorted(rng.permutation(members)[:most_tokens].tolist())
    return contexts


def _cells(by_centre: ByCentre, task: str) -> Iterator[Cell]:
    """The cells of one context; each has at least one triple."""
    for same, other in permutations(sorted(by_centre), 2):
        for speaker in sorted(set(by_centre[same]) & set(by_centre[other])):
            a = by_centre[same][speaker]
            b = by_centre[other][speaker]
            if task == "within":
                if len(a) > 1:
                    yield Cell((same, other), a, b, a)
                continue
            for stranger in sorted(set(by_centre[same]) - {speaker}):
                yield Cell((same, other), a, b, by_centre[same][stranger])


def _errors(
    cells: Sequence[Cell], distances: "_Distances", recording: np.ndarray, recordings: int
) -> tuple[csr_array, csr_array]:
    """Errors and numbers of triples, `(cells, recordings)` each, by the recording of X.

    Args:
        recording: number of the recording of each token.
    """
    of_cell: list[int] = []
    of_recording: list[int] = []
    errors: list[float] = []
    triples: list[int] = []
    for number, cell in enumerate(cells):
        to_a = distances(cell.x, cell.a)  # (X, A)
        to_b = distances(cell.x, cell.b)  # (X, B)
        same = np.array(cell.x)[:, None] == np.array(cell.a)[None, :]  # X is not compared with itself
        wrong = (to_a[:, :, None] > to_b[:, None, :]) + 0.5 * (to_a[:, :, None] == to_b[:, None, :])
        errors += np.where(same[:, :, None], 0, wrong).sum((1, 2)).tolist()
        triples += ((~same).sum(1) * len(cell.b)).tolist()
        of_cell += [number] * len(cell.x)
        of_recording += recording[cell.x].tolist()
    shape = (len(cells), recordings)
    places = (of_cell, of_recording)
    return coo_array((errors, places), shape=shape).tocsr(), coo_array((triples, places), shape=shape).tocsr()


class _Distances:
    """Distances of tokens; each pair is computed once."""

    def __init__(self, tokens: Sequence[Token], cells: Sequence[Cell]):
        self.count = len(tokens)
        wanted = np.unique(
            np.concatenate([self._key(cell.x, [*cell.a, *cell.b]).ravel() for cell in cells])
        )  # sorted, to be found by bisection
        first = wanted // self.count
        second = wanted % self.count
        sizes = np.array([len(token.units) for token in tokens])
        order = np.argsort(sizes[first] * 1000 + sizes[second], kind="stable")  # little padding
        found = np.empty(len(wanted))
        for start in range(0, len(order), PAIRS_AT_ONCE):
            part = order[start : start + PAIRS_AT_ONCE]
            found[part] = dtw([tokens[i].units for i in first[part]], [tokens[i].units for i in second[part]])
        self.wanted = wanted
        self.found = found

    def _key(self, x: Sequence[int], others: Sequence[int]) -> np.ndarray:
        x = np.asarray(x)[:, None]
        others = np.asarray(others)[None, :]
        return np.minimum(x, others) * self.count + np.maximum(x, others)

    def __call__(self, x: Sequence[int], others: Sequence[int]) -> np.ndarray:
        """`(x, others)`"""
        return self.found[np.searchsorted(self.wanted, self._key(x, others))]


def dtw(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Mean cost along the cheapest path of each pair of unit sequences, `(pairs,)`.

    A path steps forward in one sequence or both. Among equally cheap steps the diagonal one is taken.
    """
    a, a_sizes = _padded(first)
    b, b_sizes = _padded(second)
    pairs, height = a.shape
    width = b.shape[1]
    cost = np.full((pairs, width + 1), np.inf)  # of the row above, with a border
    length = np.zeros((pairs, width + 1))
    cost[:, 0] = 0
    result = np.empty(pairs)
    for i in range(height):
        new_cost = np.full((pairs, width + 1), np.inf)
        new_length = np.zeros((pairs, width + 1))
        for j in range(width):
            step = (a[:, i] != b[:, j]).astype(float)
            ways = np.stack([cost[:, j], cost[:, j + 1], new_cost[:, j]])
            lengths = np.stack([length[:, j], length[:, j + 1], new_length[:, j]])
            best = ways.argmin(0)[None]
            new_cost[:, j + 1] = step + np.take_along_axis(ways, best, 0)[0]
            new_length[:, j + 1] = 1 + np.take_along_axis(lengths, best, 0)[0]
        ends = a_sizes == i + 1
        at = (np.flatnonzero(ends), b_sizes[ends])
        result[ends] = new_cost[at] / new_length[at]
        cost = new_cost
        length = new_length
    return result


def _padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.array([len(one) for one in sequences])
    padded = np.full((len(sequences), sizes.max()), -1)
    padded[np.arange(sizes.max()) < sizes[:, None]] = np.concatenate(sequences)
    return padded, sizes
