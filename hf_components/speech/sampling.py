"""Choose a part of a corpus. The choice depends on seed and ids only, and changes little when files are added."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from datasets import Dataset

from hf_components.runtime import UserError

SAMPLING = ("random", "stratified")


def at_most_rows(override: str | None, max_samples: int | None) -> str | None:
    """A `data_config_override` that takes at most so many rows of each split; None leaves it as it is.

    Raises:
        UserError: it is not valid, or has another limit.
    """
    if max_samples is None:
        return override
    given = Sampling.parse(override).max_samples
    if given not in (None, max_samples):
        raise UserError(f"max_samples is {max_samples}, and {given} in data_config_override; leave one of them out")
    return json.dumps({**json.loads(override or "{}"), "max_samples": max_samples})


@dataclass(frozen=True)
class Sampling:
    """How much of a corpus a stage takes, and who is held out. Stages with the same values choose the same rows.

    Args:
        sampling, percent, max_samples: see `sample`.
        seed: seed of every choice.
        folds: number of folds of a cross-validation over all speakers, see `divide`; None keeps the splits.
        fold: the fold that becomes `dev`; the other speakers are `train`.
        selection: share of `train` that becomes the split `selection`, whole speakers, to choose a system on.
    """

    sampling: str = "random"
    percent: float = 100.0
    max_samples: int | None = None
    seed: int = 42
    folds: int | None = None
    fold: int | None = None
    selection: float = 0.0

    @classmethod
    def parse(cls, override: str | None) -> "Sampling":
        """Parse a JSON object such as `{"percent": 50, "sampling": "stratified"}`; None takes all rows.

        Raises:
            UserError: it is no JSON object, a key is unknown, or a value is out of its range.
        """
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        try:
            values = json.loads(override or "{}")
            if not isinstance(values, dict):
                raise ValueError(f"got {type(values).__name__}")
            if unknown := values.keys() - known.keys():
                raise ValueError(f"unknown key {min(unknown)!r}")
            if wrong := [
                name
                for name, value in values.items()
                if not isinstance(value, known[name]) and not (known[name] is float and isinstance(value, int))
            ]:
                raise ValueError(f"{wrong[0]} cannot be {values[wrong[0]]!r}")
        except ValueError as error:
            names = ", ".join(known)
            raise UserError(f"data_config_override must be a JSON object with keys of {names}: {error}") from error
        found = cls(**values)
        check_sampling(found.sampling, found.percent, found.max_samples)
        found.check_division()
        return found

    def check_division(self) -> None:
        """Raise UserError unless `fold` is one of at least 2 `folds`, and `selection` lies in [0, 0.5]."""
        if (self.folds is None) != (self.fold is None):
            raise UserError(f"folds and fold go together, got folds {self.folds} and fold {self.fold}")
        if self.folds is not None and not (self.folds >= 2 and 0 <= self.fold < self.folds):
            raise UserError(f"fold must be one of at least 2 folds, counted from 0, got {self.fold} of {self.folds}")
        if not 0 <= self.selection <= 0.5:
            raise UserError(f"selection must lie in [0, 0.5], got {self.selection}")

    def of(self, corpus: Dataset) -> Dataset:
        """The chosen rows of a prepared corpus, in its order."""
        names = (corpus["id"][:], corpus["group"][:])
        chosen = sample(*names, self.sampling, self.percent, self.max_samples, self.seed)
        return corpus if len(chosen) == len(corpus) else corpus.select(chosen)


def check_sampling(sampling: str, percent: float, max_samples: int | None) -> None:
    """Raise UserError unless `sampling` is known, 0 < `percent` <= 100 and `max_samples` is None or positive."""
    if sampling not in SAMPLING:
        raise UserError(f"sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
    if not 0 < percent <= 100:
        raise UserError(f"percent must lie in (0, 100], got {percent}")
    if max_samples is not None and max_samples < 1:
        raise UserError(f"max_samples must be at least 1, got {max_samples}; leave it out to take all")


def sample(
    ids: Sequence[str],
    groups: Sequence[str],
    sampling: str = "random",
    percent: float = 100.0,
    max_samples: int | None = None,
    seed: int = 42,
) -> list[int]:
    """Indices of the chosen utterances, in ascending order.

    The rank of an utterance depends only on `seed` and its id, and the lowest ranks are taken. So the choice does not
    depend on the order, a smaller sample is part of a larger one (with `random`), and added utterances replace only
    few of the chosen ones.

    Args:
        ids: unique name of each utterance.
        groups: group of each utterance, used by `stratified`.
        sampling: `random` ranks all utterances together; `stratified` keeps the share of every group (largest
            remainder), and at least one utterance of each group if the sample is large enough.
        percent: share to keep, in (0, 100].
        max_samples: upper bound after `percent`.
    Raises:
        UserError: see `check_sampling`.
    """
    check_sampling(sampling, percent, max_samples)
    size = min(max(round(len(ids) * percent / 100), 1), max_samples or len(ids), len(ids))
    ranked = sorted(range(len(ids)), key=lambda index: (rank(seed, ids[index]), index))
    if sampling == "random":
        return sorted(ranked[:size])
    members: dict[str, list[int]] = {}
    for index in ranked:
        members.setdefault(groups[index], []).append(index)
    sizes = _share({group: len(indices) for group, indices in members.items()}, size)
    return sorted(index for group, indices in members.items() for index in indices[: sizes[group]])


def _share(counts: dict[str, int], size: int) -> dict[str, int]:
    """Split `size` over groups in proportion to their counts (largest remainder; ties by count, then name)."""
    total = sum(counts.values())
    exact = {group: size * count / total for group, count in counts.items()}
    at_least = 1 if size >= len(counts) else 0
    sizes = {group: max(floor(share), at_least) for group, share in exact.items()}
    while (missing := size - sum(sizes.values())) != 0:
        step = 1 if missing > 0 else -1
        movable = [g for g in counts if at_least <= sizes[g] + step <= counts[g]]
        group = max(movable, key=lambda g: (step * (exact[g] - sizes[g]), counts[g], g))
        sizes[group] += step
    return sizes


def rank(seed: int, name: str) -> bytes:
    """The place of a name in a random order that depends on `seed` and the name alone."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
