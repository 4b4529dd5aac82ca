"""Motifs of a corpus: how frequent and how long they are, and how much shorter they make it."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute as pc
from matplotlib.figure import Figure

from hf_components.reporting import PALETTE
from hf_components.speech import count_speakers, say_speakers
from hf_components.units.motifs.bpe import Motifs, Occurrences
from hf_components.units.table import SECONDS_PER_UNIT


def list_motifs(motifs: Motifs, rows: pyarrow.Table, found: Occurrences) -> list[dict]:
    """Motifs of two and more units, the most frequent first.

    Args:
        rows: the segments.
        found: their motifs.
    Returns:
        per motif `id`, `name`, `units`, `length` (units), `count`, number of `segments`, `recordings` and `speakers`
        with it (speakers: None if nobody is known), the speakers in words (`voices`), and `seconds`: mean, shortest
        and longest, or None if it does not occur.
    """
    order = np.argsort(found.motif, kind="stable")
    ids, begins = np.unique(found.motif[order], return_index=True)
    occurrences = dict(zip(ids.tolist(), np.split(order, begins[1:]), strict=True)) if len(ids) else {}
    speakers = np.array(rows["speaker_id"].to_pylist(), dtype=object)
    recordings = np.array(rows["source_file"].to_pylist(), dtype=object)
    described = []
    for motif, units in enumerate(motifs.units):
        if len(units) < 2:
            continue
        at = occurrences.get(motif, np.zeros(0, np.int64))
        seconds = found.end[at] - found.start[at]
        heard = set(speakers[found.row[at]])
        described.append(
            {
                "id": motif,
                "name": motifs.name(motif),
                "units": units,
                "length": len(units),
                "count": len(at),
                "segments": len(np.unique(found.row[at])),
                "recordings": len(set(recordings[found.row[at]])),
                "speakers": count_speakers(heard) if len(at) else 0,
                "voices": say_speakers(heard) if len(at) else "0 speakers",
                "seconds": {
                    "mean": round(float(seconds.mean()), 4),
                    "min": round(float(seconds.min()), 2),
                    "max": round(float(seconds.max()), 2),
                }
                if len(at)
                else None,
            }
        )
    return sorted(described, key=lambda row: (-row["count"], row["id"]))


def measure_compression(motifs: Motifs, rows: pyarrow.Table, found: Occurrences, seed: int) -> dict:
    """How much shorter segments are when written as motifs.

    `units_per_motif` grows with any vocabulary. Compare it with `units_per_motif_shuffled`, of the same segments with
    their units in random order: the difference is due to the order of the units. `bits_ratio` is bits of the units /
    bits of the motifs, each in a code of fixed length, since an id of a large vocabulary needs more bits.
    """
    lengths = motifs.lengths()
    units = len(pc.list_flatten(rows["deduplicated"]))
    count = len(found.motif)
    frames = len(pc.list_flatten(rows["units"]))
    rng = np.random.default_rng(seed)
    shuffled = sum(map(len, motifs.encode([rng.permutation(row) for row in rows["deduplicated"].to_pylist()])))
    return {
        "segments": len(rows),
        "seconds": round(frames * SECONDS_PER_UNIT, 2),
        "frames": frames,
        "units": units,
        "motifs": count,
        "frames_per_unit": _ratio(frames, units),
        "units_per_motif": _ratio(units, count),
        "units_per_motif_shuffled": _ratio(units, shuffled),
        "bits_ratio": _ratio(units * np.log2(motifs.identity["num_units"]), count * np.log2(len(lengths))),
        "units_in_runs": _ratio(int(lengths[found.motif][lengths[found.motif] > 1].sum()), units),
        "seconds_per_motif": _ratio(frames * SECONDS_PER_UNIT, count),
    }


def _ratio(a: float, b: float) -> float | None:
    return round(float(a / b), 4) if b else None


def plot_motifs(file: Path, described: list[dict], title: str) -> None:
    """Plot frequency over rank, and the share of motifs and occurrences of each length, into a PNG."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    counts = [row["count"] for row in described if row["count"]]
    left.plot(range(1, len(counts) + 1), counts, color=PALETTE[0], marker="o", markersize=3, linewidth=1)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="motif, the most frequent first",
        ylabel="occurrences",
        title="how often they occur",
    )
    lengths = np.array([row["length"] for row in described])
    of_length = np.arange(2, lengths.max() + 1)
    for shift, weights, name in ((-0.2, None, "motifs"), (0.2, [row["count"] for row in described], "occurrences")):
        share = np.bincount(lengths, weights)[2:]
        right.bar(of_length + shift, 100 * share / share.sum(), 0.4, label=name, color=PALETTE[shift > 0])
    right.set(xlabel="units in a motif", ylabel="share (%)", title="how long they are", xticks=of_length)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
