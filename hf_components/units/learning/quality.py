"""How good units are: their agreement with phone labels, and figures that need no labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from hf_components.reporting import PALETTE
from hf_components.speech import is_known, known_speakers
from hf_components.units.learning.phone_labels import Phones, recording_key
from hf_components.units.motifs.analysis import measure_compression
from hf_components.units.motifs.bpe import SPECIAL, Motifs, find_occurrences, to_fast_tokenizer, train_motifs
from hf_components.units.table import SECONDS_PER_UNIT

LEARNT_RUNS = 200  # motifs of two and more units: a fixed number, so that numbers of units can be compared
WITH_LABELS = {"nmi": "NMI with phones", "phone_purity": "phone purity", "cluster_purity": "cluster purity"}
WITHOUT_LABELS = {
    "order": "units per motif / in random order",
    "speaker_nmi": "NMI with speakers",
    "bits_per_second": "bits per second",
}


def agreement(units: np.ndarray, labels: np.ndarray) -> dict:
    """Agreement of units (frames,) and labels (frames,).

    `phone_purity`: share of frames whose label is the most frequent one of their unit; it rises with the number of
    units. `cluster_purity`: share of frames whose unit is the most frequent one of their label; it falls with that
    number. `pnmi`: mutual information / entropy of the labels (all three: Hsu et al. 2021, "HuBERT", section V-C).
    `nmi`: mutual information / mean of both entropies, the same as scikit-learn's.
    """
    _, units = np.unique(units, return_inverse=True)
    _, labels = np.unique(labels, return_inverse=True)
    joint = np.zeros((units.max() + 1, labels.max() + 1))
    np.add.at(joint, (units, labels), 1)
    joint /= len(units)
    of_units = entropy(joint.sum(1))
    of_labels = entropy(joint.sum(0))
    both = entropy(joint)
    shared = max(0.0, of_units + of_labels - both)
    mean = (of_units + of_labels) / 2
    return {
        "phone_purity": float(joint.max(1).sum()),
        "cluster_purity": float(joint.max(0).sum()),
        "pnmi": shared / of_labels if of_labels else 1.0,
        "nmi": shared / mean if mean else 1.0,
    }


def entropy(shares: np.ndarray) -> float:
    """Entropy in bits."""
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def phone_agreement(rows: pyarrow.Table, labels: Mapping[str, Phones], seed: int) -> dict:
    """`agreement` over the frames that have a phone, and `nmi_by_chance` for the same frames with shuffled units.

    Args:
        rows: segments, see `hf_components.units.table.UnitTable`; recordings without labels are left out.
    Returns:
        also `labelled_frames` and the number of different `phones`; only these if no frame has a phone.
    """
    phones = [
        labels[recording_key(row["source_file"])].of_frames(row["start"], len(row["units"]))
        if recording_key(row["source_file"]) in labels
        else np.full(len(row["units"]), "")
        for row in rows.select(["source_file", "start", "units"]).to_pylist()
    ]
    phones = np.concatenate([np.zeros(0, dtype="<U1"), *phones])
    units = pc.list_flatten(rows["units"]).to_numpy()[phones != ""]
    phones = phones[phones != ""]
    counts = {"labelled_frames": len(phones), "phones": len(np.unique(phones))}
    if not len(phones):
        return counts
    shuffled = np.random.default_rng(seed).permutation(units)
    return {**agreement(units, phones), "nmi_by_chance": agreement(shuffled, phones)["nmi"], **counts}


def label_free_figures(train: pyarrow.Table, held_out: pyarrow.Table, identity: dict, seed: int) -> dict:
    """Figures of units that need no phone labels, on segments that the units were not learnt from.

    `order`: units per motif / units per motif with shuffled units. Speech has an order that noise lacks. The motifs
    are learnt on `train`, so they cannot be memorised. `speaker_nmi`: information of the units about the speaker,
    which should be low; None unless two are known. `bits_per_second`: entropy of deduplicated units times their rate.
    None of the three alone means quality: few units say little about the speaker, but also little about anything else.
    """
    model = train_motifs(
        train["deduplicated"].to_pylist(), identity["num_units"], identity["num_units"] + len(SPECIAL) + LEARNT_RUNS
    )
    motifs = Motifs.from_tokenizer(to_fast_tokenizer(model), identity)
    compression = measure_compression(motifs, held_out, find_occurrences(motifs, held_out), seed)
    runs = pc.list_flatten(held_out["deduplicated"]).to_numpy()
    seconds = len(pc.list_flatten(held_out["units"])) * SECONDS_PER_UNIT
    speakers = held_out["speaker_id"].to_pylist()
    named = held_out.filter(pyarrow.array([is_known(name) for name in speakers], pyarrow.bool_()))
    of_frames = np.repeat(named["speaker_id"].to_numpy(), pc.list_value_length(named["units"]).to_numpy())
    return {
        "order": compression["units_per_motif"] / compression["units_per_motif_shuffled"],
        "speaker_nmi": agreement(pc.list_flatten(named["units"]).to_numpy(), of_frames)["nmi"]
        if len(known_speakers(speakers)) > 1
        else None,
        "bits_per_second": entropy(np.unique(runs, return_counts=True)[1] / len(runs)) * len(runs) / seconds,
    }


def plot_sweep(file: Path, figures: Sequence[dict], title: str) -> None:
    """Plot figures over the number of units, one line per layer; or over layers, if there are more of those."""
    layers, sizes = ({row[key] for row in figures} for key in ("layer", "num_units"))
    over, per = ("layer", "num_units") if len(layers) > len(sizes) else ("num_units", "layer")
    panels = {
        name: label
        for name, label in (WITH_LABELS | WITHOUT_LABELS).items()
        if all(row.get(name) is not None for row in figures)
    }
    figure = Figure(figsize=(4 * min(3, len(panels)), 3.4 * -(-len(panels) // 3)), layout="constrained")
    figure.suptitle(title)
    for place, (name, label) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(-(-len(panels) // 3), min(3, len(panels)), place)
        for i, value in enumerate(sorted({row[per] for row in figures}, key=str)):
            line = sorted((row[over], row[name]) for row in figures if row[per] == value)
            axes.plot(
                *zip(*line, strict=True),
                marker="o",
                markersize=4,
                color=PALETTE[i % len(PALETTE)],
                label=None if value is None else f"{per.replace('_', ' ')} {value}",
            )
        axes.set(xlabel=over.replace("_", " "), ylabel=label)
        if over == "num_units":
            axes.set_xscale("log")
            axes.set_xticks(sorted(sizes))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)
