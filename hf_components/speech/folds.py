"""Divide the speakers of a corpus anew: folds of a cross-validation, and speakers to choose a system on."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from sklearn.model_selection import StratifiedGroupKFold

from hf_components.runtime import UserError
from hf_components.speech.sampling import Sampling
from hf_components.speech.speakers import is_known
from hf_components.speech.splits import DEV, LONG, TRAIN, split_speakers

SELECTION = "selection"  # split of the speakers that a system is chosen on; nothing is trained on them


def fold_of_each(ids: Sequence[str], speakers: Sequence[str], strata: Sequence[str], folds: int, seed: int) -> list:
    """The fold of each row, from 0 to `folds - 1`; None for rows of unknown speakers, who may be in any fold.

    Speakers are never divided, and every fold has about the same share of each stratum (`StratifiedGroupKFold`). The
    order of the rows does not matter.

    Raises:
        UserError: there are fewer speakers than folds.
    """
    known = [row for row in np.argsort(ids) if is_known(speakers[row])]
    people = len({speakers[row] for row in known})
    if people < folds:
        raise UserError(f"{folds} folds need at least {folds} speakers, got {people}; lower the number of folds")
    fold_of: list[int | None] = [None] * len(ids)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    of_known = splitter.split(known, [strata[row] for row in known], [speakers[row] for row in known])
    for fold, (_, held_out) in enumerate(of_known):
        for place in held_out:
            fold_of[known[place]] = fold
    return fold_of


def divide(corpus: DatasetDict, sampling: Sampling) -> DatasetDict:
    """The corpus with other splits, if `sampling` asks for them.

    With `folds`, one fold of all speakers is `dev` and the others are `train`; recordings that are too long are left
    out. With `selection`, about that share of the rows of `train` moves to the split `selection`: whole speakers
    of every stratum, see `split_speakers`.

    Raises:
        UserError: there are fewer speakers than folds, or no speaker of train can be held out.
    """
    if sampling.folds is not None:
        rows = concatenate_datasets([part for name, part in corpus.items() if not name.endswith(LONG)])
        names = (rows["id"][:], rows["speaker_id"][:], rows["group"][:])
        fold_of = fold_of_each(*names, sampling.folds, sampling.seed)
        corpus = _divided(rows, [number == sampling.fold for number in fold_of], DEV)
    if sampling.selection:
        rows = corpus[TRAIN]
        sides = split_speakers(rows["speaker_id"][:], rows["group"][:], sampling.selection, sampling.seed)
        chosen = [sides[speaker] == DEV for speaker in rows["speaker_id"]]
        if not any(chosen):
            raise UserError(
                "no speaker of train can be held out to choose a system: every group has only one; leave that out by "
                "--selection_share 0, and name the system with --ship"
            )
        corpus = DatasetDict({**corpus, **_divided(rows, chosen, SELECTION)})
    return corpus


def _divided(rows: Dataset, chosen: Sequence[bool], name: str) -> DatasetDict:
    chosen = np.asarray(chosen)
    return DatasetDict({TRAIN: rows.select(np.flatnonzero(~chosen)), name: rows.select(np.flatnonzero(chosen))})
