"""Percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of error rates, over speakers or utterances.

Utterances of one speaker are similar, so resampled utterances give intervals that are too narrow for new speakers.
Give `units` (the speakers) if they are known (Bisani and Ney 2004, https://doi.org/10.1109/ICASSP.2004.1326009).
"""

from collections.abc import Sequence

import numpy as np

COUNTED = {"wer": ("errors", "reference_words"), "cer": ("character_errors", "reference_characters")}
DRAWS_AT_ONCE = 2**20  # bounds memory: 100,000 utterances times 1000 resamples do not fit at once


def error_rate(errors: np.ndarray, reference_length: np.ndarray) -> np.ndarray:
    """Errors per reference word; without reference words the number of errors, the same as in jiwer.

    Args:
        errors, reference_length: counts of any shape, such as (num_bootstrap,).
    """
    return errors / np.maximum(reference_length, 1)


def interval(
    errors: np.ndarray,
    reference_words: np.ndarray,
    units: Sequence[str] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[float] | None:
    """Bootstrap interval of the corpus error rate.

    Args:
        errors, reference_words: counts of shape (utterances,).
        units: label of the resampled unit of each utterance, normally its speaker; None resamples utterances.
    Returns:
        [low, high], or None with fewer than two units or `num_bootstrap=0`.
    Raises:
        ValueError: `confidence` is outside (0, 1), `num_bootstrap` is negative, or `units` has the wrong length.
    """
    return intervals({"": (errors, reference_words)}, units, num_bootstrap, confidence, seed)[""]


def intervals(
    rates: dict[str, tuple[np.ndarray, np.ndarray]],
    units: Sequence[str] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """`interval` for several rates on the same resamples.

    Args:
        rates: name -> errors and reference lengths, counts of shape (utterances,) each.
    """
    sums = _resample(
        np.stack([column for rate in rates.values() for column in rate], axis=1), units, num_bootstrap, seed
    )
    return {
        name: _percentiles(error_rate(sums[:, 2 * i], sums[:, 2 * i + 1]), confidence) for i, name in enumerate(rates)
    }


def paired_bootstrap(
    a: dict[str, np.ndarray],
    b: dict[str, np.ndarray],
    units: Sequence[str] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    rate: str = "wer",
) -> dict:
    """Compare two systems on the same utterances: both are scored on every resample, and the difference is kept.

    Args:
        a, b: results of `utterance_errors` for the two systems, counts of shape (utterances,) in the same order.
        units: label of the resampled unit of each utterance, normally its speaker; None resamples utterances.
        rate: "wer", or "cer" to count characters.
    Returns:
        `wer_a`, `wer_b` (or `cer_a`, `cer_b`), `difference` (b - a: negative if b is better), `interval` [low, high]
        of the difference (None with fewer than two units), and the numbers of `utterances` and `units`.
    Raises:
        ValueError: the systems were not scored on the same number of utterances.
    """
    if len(a["errors"]) != len(b["errors"]):
        raise ValueError(
            f"both systems must be scored on the same utterances, got {len(a['errors'])} and {len(b['errors'])}"
        )
    # With several references, each system is scored against its best one, so the reference words can differ.
    wrong, length = COUNTED[rate]
    counts = np.stack([a[wrong], a[length], b[wrong], b[length]], axis=1)
    total = counts.sum(axis=0)
    sums = _resample(counts, units, num_bootstrap, seed)
    rate_a = error_rate(total[0], total[1])
    rate_b = error_rate(total[2], total[3])
    differences = error_rate(sums[:, 2], sums[:, 3]) - error_rate(sums[:, 0], sums[:, 1])
    return {
        f"{rate}_a": float(rate_a),
        f"{rate}_b": float(rate_b),
        "difference": float(rate_b - rate_a),
        "interval": _percentiles(differences, confidence),
        "utterances": len(counts),
        "units": len(counts) if units is None else len(set(units)),
    }


def sum_by_unit(counts: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Sum the rows of `counts` (utterances, columns) by unit -> (units, columns), sorted by label.

    Raises:
        ValueError: there is not a unit for each row.
    """
    if len(units) != len(counts):
        raise ValueError(f"every utterance needs a unit (speaker), got {len(units)} for {len(counts)} utterances")
    labels, position = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    totals = np.zeros((len(labels), counts.shape[1]), dtype=counts.dtype)
    np.add.at(totals, position, counts)
    return totals


def _resample(counts: np.ndarray, units: Sequence[str] | None, num_bootstrap: int, seed: int) -> np.ndarray:
    """Draw as many units as there are, with replacement, `num_bootstrap` times -> sums (num_bootstrap, columns)."""
    if num_bootstrap < 0:
        raise ValueError(f"num_bootstrap must be 0 or more, got {num_bootstrap}")
    totals = counts if units is None else sum_by_unit(counts, units)
    if len(totals) < 2:  # every resample would be the sample itself, and the interval much too narrow
        return np.empty((0, counts.shape[1]))
    rng = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // len(totals))
    sums = [
        totals[rng.integers(len(totals), size=(min(rows, num_bootstrap - start), len(totals)))].sum(axis=1)
        for start in range(0, num_bootstrap, rows)
    ]
    return np.concatenate(sums) if sums else np.empty((0, counts.shape[1]))


def _percentiles(values: np.ndarray, confidence: float) -> list[float] | None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail]).tolist() if len(values) else None
