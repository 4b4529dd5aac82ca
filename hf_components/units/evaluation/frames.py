"""Units beside phones, frame by frame: PNMI and purities; and the bitrate of the units, which needs no phones."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array, csr_array

from hf_components.units.evaluation.resampling import bootstrap_interval, numbered
from hf_components.units.table import SECONDS_PER_UNIT

NAMES = ("pnmi", "phone_purity", "cluster_purity")


def frame_figures(segments: Sequence[dict], num_bootstrap: int, seed: int) -> tuple[dict, dict]:
    """PNMI, phone purity and cluster purity (Hsu et al. 2021, "HuBERT", section V-C) with their intervals.

    Args:
        segments: rows of `align_segments`; frames without a phone are left out.
    Returns:
        the figures, with `pnmi_by_chance` (the same units in random order over all frames), `frames`, `phones`; and
        the intervals.
    """
    of_recording, names = numbered([row["source_file"] for row in segments])
    frames = np.repeat(of_recording, [len(row["units"]) for row in segments])
    units = np.concatenate([row["units"] for row in segments])
    phones = np.concatenate([row["phones"] for row in segments])
    spoken = phones != ""
    _, unit = np.unique(units[spoken], return_inverse=True)
    labels, phone = np.unique(phones[spoken], return_inverse=True)
    shape = (int(unit.max()) + 1, len(labels))

    def counts(of_unit: np.ndarray) -> csr_array:
        cell = of_unit * shape[1] + phone
        ones = np.ones(len(cell))
        return coo_array((ones, (frames[spoken], cell)), shape=(len(names), shape[0] * shape[1])).tocsr()

    together = counts(unit)
    whole = _figures(together, np.ones((1, len(names))), shape)
    shuffled = counts(np.random.default_rng(seed).permutation(unit))
    figures = {
        **{name: float(whole[name][0]) for name in NAMES},
        "pnmi_by_chance": float(_figures(shuffled, np.ones((1, len(names))), shape)["pnmi"][0]),
        "frames": int(spoken.sum()),
        "phones": len(labels),
    }

    def interval(name: str) -> list[float] | None:
        return bootstrap_interval(
            lambda drawn: _figures(together, drawn, shape)[name], len(names), num_bootstrap, seed
        )

    return figures, {name: interval(name) for name in NAMES}


def _figures(counts: csr_array, drawn: np.ndarray, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """The figures of each resample; `counts` are frames of each recording and pair of unit and phone."""
    joint = (counts.T @ drawn.T).T.reshape(len(drawn), *shape)  # (resamples, units, phones)
    joint = joint / joint.sum(axis=(1, 2), keepdims=True)
    of_phones = _entropy(joint.sum(1))
    shared = _entropy(joint.sum(2)) + of_phones - _entropy(joint.reshape(len(drawn), -1))
    return {
        "pnmi": np.where(of_phones > 0, shared.clip(0) / np.where(of_phones > 0, of_phones, 1), 1.0),
        "phone_purity": joint.max(2).sum(1),
        "cluster_purity": joint.max(1).sum(1),
    }


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Entropy in bits of each row."""
    return -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)


def bitrate(segments: Sequence[dict], num_bootstrap: int, seed: int) -> tuple[float, list[float] | None]:
    """Bits per second: entropy of the units without repetitions times their number per second, and its interval.

    The same as in the ZeroSpeech challenges (Dunbar et al. 2019, section 3).
    """
    of_recording, names = numbered([row["source_file"] for row in segments])
    runs = [row["deduplicated"] for row in segments]
    unit = np.concatenate(runs)
    counts = np.zeros((len(names), int(unit.max()) + 1))
    np.add.at(counts, (np.repeat(of_recording, [len(of) for of in runs]), unit), 1)
    seconds = np.bincount(of_recording, [len(row["units"]) * SECONDS_PER_UNIT for row in segments])

    def figure(drawn: np.ndarray) -> np.ndarray:
        found = drawn @ counts
        total = found.sum(1)
        return _entropy(found / total[:, None]) * total / (drawn @ seconds)

    return float(figure(np.ones((1, len(names))))[0]), bootstrap_interval(figure, len(names), num_bootstrap, seed)
