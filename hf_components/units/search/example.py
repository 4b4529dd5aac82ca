"""Stretches of a corpus of units that sound like an example."""

import numpy as np
import pyarrow
import torch

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime import Progress, UserError
from hf_components.speech import SAMPLING_RATE
from hf_components.units.search.dtw import Hit, best_paths, hits_of
from hf_components.units.table import HOP

CELLS = 20_000_000  # frames of segments times frames of the example that are compared at once
TEMPERATURE = 0.2  # of the posteriors, in mean squared distances of a frame to its centroid
LEAST = 1e-6  # of a posterior
SILENCE = 25  # frames before and after an example: half a second
SHORTEST = 0.025  # seconds of audio in a frame


def find_example(
    model: AcousticUnitsModel, waveform: np.ndarray, rows: pyarrow.Table, *, most: int, per_segment: int
) -> list[Hit]:
    """The stretches that are nearest to an example, the nearest first.

    The corpus is taken as its units alone, without its audio. The cost of a frame of the example and a unit is the
    negative log of the unit's posterior (Hazen et al. 2009, "Query-by-example spoken term detection using phonetic
    posteriorgram templates", with one side certain): a softmax of minus the squared distances to the centroids.

    Args:
        waveform: the example `(samples,)` at 16 kHz.
        rows: segments, see `hf_components.units.table.UnitTable`.
        most: hits of all segments.
        per_segment: hits of one segment.
    Raises:
        UserError: the example is too short.
    """
    costs = costs_of_units(model, waveform)
    units = [np.asarray(of_segment) for of_segment in rows["units"].to_pylist()]
    order = sorted((i for i, of_segment in enumerate(units) if len(of_segment)), key=lambda i: len(units[i]))
    hits: list[Hit] = []
    for batch in Progress(_batches(order, units, len(costs)), desc="searching", unit="batch"):
        longest = len(units[batch[-1]])
        padded = np.full((len(batch), len(costs), longest), np.inf, dtype=np.float32)
        for place, i in enumerate(batch):
            padded[place, :, : len(units[i])] = costs[:, units[i]]
        hits += hits_of(*best_paths(padded), len(costs), per_segment, batch)
        hits = sorted(hits, key=lambda hit: (hit.cost, hit.segment, hit.start))[:most]
    return hits


def costs_of_units(model: AcousticUnitsModel, waveform: np.ndarray) -> np.ndarray:
    """How unlike each frame of the example is to each unit, `(frames, num_units)` float32.

    The example stands between silences. An encoder sees a sound in its context: words that are cut out without
    silence are found less well, and so are words in their sentence (docs/results.md, "Query by example").

    Raises:
        UserError: it is shorter than a frame.
    """
    frames = int(model.num_frames(len(waveform)))
    if frames < 1:
        raise UserError(f"an example must have at least {SHORTEST:g} s, got {len(waveform) / SAMPLING_RATE:.3f} s")
    waveform = torch.as_tensor(np.pad(waveform, SILENCE * HOP), device=model.device)
    features = model.features(waveform[None])[0][:, SILENCE : SILENCE + frames]
    centroids = model.centroids.double()
    squared = torch.cdist(features[0].double(), centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    spread = squared.min(1).values.mean().clamp_min(torch.finfo(torch.float64).tiny)
    posteriors = torch.softmax(-squared / (TEMPERATURE * spread), dim=1)
    return -posteriors.clamp_min(LEAST).log().float().cpu().numpy()


def _batches(order: list[int], units: list[np.ndarray], example: int) -> list[list[int]]:
    """Segments of similar length, as many as fit."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * len(units[i]) * example > CELLS:
            batches.append([])
        batches[-1].append(i)
    return batches
