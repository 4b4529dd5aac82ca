"""Recordings with their gold: divided into training and evaluation, and chosen for training."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import datasets
import numpy as np

from hf_components.correction.finetuning.arguments import GoldArguments
from hf_components.correction.finetuning.expectation import estimated_wer
from hf_components.correction.finetuning.gold import Gold
from hf_components.runtime import NothingToTrainOnError, UserError, first_few
from hf_components.scoring import utterance_errors
from hf_components.speech import hold_out
from hf_components.training import WEIGHT

logger = logging.getLogger(__name__)

NAMED = 10  # ids that a message shows
# Sources of gold texts without a rejected reply
BELIEVED = ("manifest", "consensus", "recogniser", "stt", "corrected", "unchanged")


@dataclass
class Sample:
    """A recording.

    Args:
        duration: length in seconds.
        heard: text of the base.
        source: source of `gold`: manifest, stt, consensus, recogniser, or the `reason` of the LLM's correction.
        truth: true text; None if it is not known.
        held_out: whether it is for evaluation and not for training.
        finetuned: text of the trained recogniser; None if it was not transcribed.
        estimated_wer: expected WER of the gold, see `combine`; None if nobody else heard the recording.
    """

    id: str
    condition: str
    duration: float
    heard: str
    gold: str
    source: str
    truth: str | None
    held_out: bool
    trained_on: bool = False
    finetuned: str | None = None
    estimated_wer: float | None = None


def make_samples(corpus: datasets.Dataset, heard: Sequence[str], gold: Gold, args: GoldArguments) -> list[Sample]:
    """Recordings with their gold, divided into training and evaluation, in the same way for each condition.

    Recordings stay on the same side if they have the same name in both conditions (one utterance with and without
    noise), or the same sound.

    Args:
        corpus, gold: see `find_gold`.
        heard: text of the base for each row.
    Raises:
        UserError: there are too few recordings to hold any out.
    """
    ids = corpus["id"][:]
    conditions = corpus["group"][:]
    held_out: set[int] = set()
    if not args.evaluate_on_train:
        names = [
            str(PurePath(name.removeprefix(f"{condition}/")).with_suffix(""))
            for name, condition in zip(ids, conditions, strict=True)
        ]
        sounds = [hashlib.sha256(row["audio"]["bytes"]).hexdigest() for row in corpus.select_columns(["audio"])]
        held_out = hold_out(ids, conditions, args.eval_ratio, args.split_seed, names, sounds)
        if len(held_out) == len(ids):
            share = f"{args.eval_ratio:.0%}"
            raise UserError(
                f"{len(ids)} recordings are too few to hold out {share}: give more, or --evaluate_on_train"
            )
    truth = [None if raw is None else text for raw, text in zip(corpus["raw_text"], corpus["text"], strict=True)]
    columns = (ids, conditions, corpus["duration"], heard, gold.texts, gold.sources, truth)
    samples = [Sample(*row, held_out=i in held_out) for i, row in enumerate(zip(*columns, strict=True))]
    for sample, errors in zip(samples, gold.errors or (), strict=bool(gold.errors)):
        sample.estimated_wer = estimated_wer([errors], [sample.gold])
    return samples


def has_errors(samples: Sequence[Sample]) -> list[bool]:
    """For each recording, whether the text of the base differs from the gold after the WER's normaliser."""
    return (utterance_errors([row.heard for row in samples], [row.gold for row in samples])["errors"] > 0).tolist()


def choose_for_training(
    samples: Sequence[Sample], train_on: str, longest_seconds: float, max_gold_wer: float | None = None
) -> list[Sample]:
    """Choose the recordings to train on from the training part.

    Recordings without a word in their gold are left out with a warning, and so are those longer than
    `longest_seconds`, because it is not known which part of the text belongs to which part of the recording. If the
    gate rejected the LLM's reply, base and LLM do not agree, although the gold is the text of the base.
    Recordings whose gold is expected to have a WER above `max_gold_wer` are left out too.

    Raises:
        NothingToTrainOnError: no recording is left.
    """
    candidates = [(row, wrong) for row, wrong in zip(samples, has_errors(samples), strict=True) if not row.held_out]
    errors = [row for row, wrong in candidates if wrong]
    if train_on == "all":
        chosen = [row for row, _ in candidates]
    elif train_on == "errors":
        chosen = errors
    else:
        chosen = [row for row, wrong in candidates if not wrong and row.source in BELIEVED]
    left_out = {
        "have no word in their gold": [row.id for row in chosen if not row.gold.strip()],
        f"are longer than {longest_seconds:g} s": [
            row.id for row in chosen if row.gold.strip() and row.duration > longest_seconds
        ],
        f"have gold with an expected WER above {max_gold_wer}": [
            row.id for row in chosen if max_gold_wer is not None and (row.estimated_wer or 0) > max_gold_wer
        ],
    }
    for what, names in left_out.items():
        if names:
            text = "%d of %d recordings %s and are not trained on: %s"
            logger.warning(text, len(names), len(chosen), what, first_few(names, NAMED))
    gone = set().union(*left_out.values())
    chosen = [row for row in chosen if row.id not in gone]
    if not chosen:
        raise NothingToTrainOnError(
            f"there is nothing to train on: {len(errors)} of {len(candidates)} recordings have errors against "
            f"the gold, and --train_on is {train_on}; choose another"
        )
    return chosen


def training_rows(corpus: datasets.Dataset, chosen: Sequence[Sample], weigh: bool = False) -> datasets.Dataset:
    """The corpus rows of the chosen recordings, with the gold as text.

    Args:
        weigh: also give each row its weight in the loss, the expected share of right words. The mean over all words
            is 1, so that the steps are as large as without weights.
    """
    index = {name: i for i, name in enumerate(corpus["id"])}
    rows = corpus.select([index[row.id] for row in chosen])
    rows = rows.remove_columns("text").add_column("text", [row.gold for row in chosen])
    if not weigh:
        return rows
    right = np.array([1 - min(row.estimated_wer or 0, 1) for row in chosen])
    mean = np.average(right, weights=[len(row.gold.split()) for row in chosen])
    return rows.add_column(WEIGHT, right / mean if mean else np.ones(len(chosen)))


def estimates(samples: Sequence[Sample], gold: Gold) -> dict:
    """The expected WER of the gold, of all recordings and of each condition; None without votes.

    Returns:
        `estimated_wer`, `estimated_wer_per_condition`, and `accuracy`: the expected share of right words of the
        base and of the others, in their order.
    """
    if gold.vote is None:
        return {"estimated_wer": None, "estimated_wer_per_condition": {}, "accuracy": []}
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows.setdefault(sample.condition, []).append(i)
    per_condition = {
        name: estimated_wer([gold.errors[i] for i in of], [gold.texts[i] for i in of])
        for name, of in sorted(rows.items())
    }
    overall = estimated_wer(gold.errors, gold.texts)
    return {"estimated_wer": overall, "estimated_wer_per_condition": per_condition, "accuracy": gold.vote.accuracy}
