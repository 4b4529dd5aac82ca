"""Robustness: how far the units of a segment change when noise is added or the speed is changed.

The figure is the unit edit distance: edits between the units of the original and those of the changed segment, both
without repetitions, per unit of the original (Gat et al. 2023, https://arxiv.org/abs/2209.15483, section 3).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from rapidfuzz.distance import Levenshtein

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints import load_model
from hf_components.runtime import Progress, UserError
from hf_components.speech import change_speed, load_corpus, rank, sample_rows, waveforms
from hf_components.units.evaluation.resampling import bootstrap_interval, numbered
from hf_components.units.table import check_same_units

SHORTEST = 0.1  # seconds of a segment that is played faster


def load_units_model(units_dir: str | Path, identity: dict) -> AcousticUnitsModel:
    """The model of `learn_units` in its output folder. Raises UserError if it is not that of the units there."""
    model = load_model(AcousticUnitsModel, str(Path(units_dir) / "model"))
    check_same_units(identity, units_dir, model.identity(), f"{units_dir}/model")
    return model


def sampled_audio(
    corpus: str, segments: Sequence[dict], units_dir: str | Path, max_samples: int, seed: int
) -> tuple[datasets.Dataset, list[str]]:
    """Rows of a corpus that are among the segments of `units_dir`, drawn at random, and the recording of each.

    Raises:
        UserError: the corpus has none of the segments.
    """
    recording_of = {row["id"]: row["source_file"] for row in segments}
    rows = datasets.concatenate_datasets(list(load_corpus(corpus, shared_speakers=True).values()))
    known = zip(rows["id"][:], rows["duration"][:], strict=True)
    kept = [i for i, (name, seconds) in enumerate(known) if name in recording_of and seconds >= SHORTEST]
    if not kept:
        raise UserError(f"{corpus} has none of the segments of {units_dir}; --corpus must be what they are of")
    sample = sample_rows(rows.select(kept), max_samples, seed)
    return sample, [recording_of[name] for name in sample["id"][:]]


def robustness(
    model: AcousticUnitsModel,
    rows: datasets.Dataset,
    recordings: Sequence[str],
    *,
    noise_snr: Sequence[float],
    speeds: Sequence[float],
    num_bootstrap: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, list[float] | None]]:
    """Unit edit distance under each change, and its interval over recordings.

    Args:
        rows: rows of the data contract, audio not decoded.
        recordings: recording of each row.
        noise_snr: signal-to-noise ratios of white noise in dB.
        speeds: factors of speed; pitch and formants change as well, as they do between speakers.
    """
    changes = [("noise", snr) for snr in noise_snr] + [("speed", factor) for factor in speeds]
    edits: dict[str, list[int]] = {_name(*change): [] for change in changes}
    sizes: list[int] = []
    for row in Progress(rows, desc="robustness", unit=" segments"):
        (clip,) = waveforms([row])
        original = _units(model, clip)
        sizes.append(len(original))
        for kind, value in changes:
            changed = add_noise(clip, value, row["id"], seed) if kind == "noise" else change_speed(clip, value)
            edits[_name(kind, value)].append(Levenshtein.distance(original, _units(model, changed)))
    of_recording, names = numbered(list(recordings))
    total = np.bincount(of_recording, sizes)
    figures = {}
    intervals = {}
    for name, found in edits.items():
        wrong = np.bincount(of_recording, found)
        figures[name] = float(wrong.sum() / total.sum())
        intervals[name] = bootstrap_interval(partial(_rate, wrong, total), len(names), num_bootstrap, seed)
    return figures, intervals


def _rate(wrong: np.ndarray, total: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Edits per unit of each resample."""
    return (drawn @ wrong) / (drawn @ total)


def _name(kind: str, value: float) -> str:
    return f"{kind} {value:g} dB" if kind == "noise" else f"{kind} {value:g}"


def _units(model: AcousticUnitsModel, clip: np.ndarray) -> Iterable[int]:
    return model.encode(clip, deduplicate=True).units.tolist()


def add_noise(clip: np.ndarray, snr: float, name: str, seed: int) -> np.ndarray:
    """The clip with white noise, which depends on seed and name alone."""
    noise = np.random.default_rng(list(rank(seed, name))).standard_normal(len(clip))
    level = np.sqrt(np.mean(np.square(clip, dtype=np.float64))) * 10 ** (-snr / 20)
    return (clip + level * noise).astype(np.float32)
