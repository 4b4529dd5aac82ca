"""Leave out training utterances whose transcript another model contradicts: WER above a threshold, per group."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_components.runtime import ID, TEXT, UserError, flag
from hf_components.scoring import read_transcripts, utterance_errors

logger = logging.getLogger(__name__)

DEFAULT = "default"  # key of the threshold for groups that are not named


@dataclass
class FilterArguments:
    """Which training utterances another model's transcripts disqualify."""

    filter_transcripts: str | None = flag(
        f"another model's transcripts of the training utterances: JSON lines of {ID} and "
        f"{TEXT}, as transcribe writes "
        "them",
        default=None,
    )
    filter_max_wer: dict | str | None = flag(
        "utterances with a larger WER between transcript and reference are not trained on: a "
        "number, or JSON per "
        'group, as in {"3-4": 1.0, "default": 0.5}',
        default=None,
    )

    def __post_init__(self):
        if (self.filter_transcripts is None) != (self.filter_max_wer is None):
            raise UserError(
                "filter_transcripts and filter_max_wer go together, got "
                f"{self.filter_transcripts} and {self.filter_max_wer}; give both or neither"
            )
        if self.filter_max_wer is not None:
            parse_thresholds(self.filter_max_wer)


def parse_thresholds(text: str) -> dict[str, float]:
    """Threshold per group from a number or a JSON object; that of other groups is under `default`.

    Raises:
        UserError: neither, or a threshold below 0.
    """
    try:
        values = json.loads(text)
        thresholds = {
            str(group): float(value)
            for group, value in (values if isinstance(values, dict) else {DEFAULT: values}).items()
        }
        if not thresholds or any(not value >= 0 for value in thresholds.values()):
            raise ValueError("a WER is at least 0")
    except (ValueError, TypeError) as error:
        raise UserError(
            'filter_max_wer must be a number of at least 0 or a JSON object of them, as in {"3-4": 1.0, '
            f'"default": 0.5}}; got {text!r} ({error})'
        ) from error
    return thresholds


def filter_by_transcripts(
    corpus: datasets.Dataset, transcripts: str | Path, max_wer: str, language: str | None = None
) -> tuple[datasets.Dataset, list[dict]]:
    """The utterances whose transcript is near enough to the reference, or not known.

    The WER of an utterance is errors over reference words, both normalised as in the `whisper_wer` metric; a reference
    without words counts as one of one word.

    Args:
        corpus: rows of the data contract.
        transcripts: file that `read_transcripts` takes.
        max_wer: what `parse_thresholds` takes.
        language: code, of the texts; English without one.
    Returns:
        the rows kept, and the dropped ones: id, group, text, transcript, wer, threshold.
    Raises:
        UserError: a group without threshold, a threshold without group, none of the utterances has a transcript, or
            none is left.
    """
    ids = corpus["id"][:]
    groups = corpus["group"][:]
    thresholds = parse_thresholds(max_wer)
    written = read_transcripts(transcripts)
    _check_groups(thresholds, set(groups))
    _check_ids(ids, written, transcripts)
    heard = [i for i, name in enumerate(ids) if name in written]
    texts = corpus.select(heard)["text"][:]
    counts = utterance_errors([written[ids[i]] for i in heard], texts, language)
    dropped = []
    for i, text, errors, words in zip(heard, texts, counts["errors"], counts["reference_words"], strict=True):
        wer = float(errors) / max(int(words), 1)
        threshold = thresholds.get(groups[i], thresholds.get(DEFAULT))
        if wer > threshold:
            dropped.append(
                {
                    "id": ids[i],
                    "group": groups[i],
                    "text": text,
                    "transcript": written[ids[i]],
                    "wer": round(wer, 4),
                    "threshold": threshold,
                }
            )
    sizes = Counter(groups)
    lost = Counter(row["group"] for row in dropped)
    for group in sorted(sizes):
        logger.info(
            "%s: %d of %d utterances have a WER above %g and are not trained on",
            group,
            lost[group],
            sizes[group],
            thresholds.get(group, thresholds.get(DEFAULT)),
        )
    if len(dropped) == len(ids):
        raise UserError(
            f"no utterance is left to train on: the transcripts in {transcripts} are all above {max_wer}; raise "
            "filter_max_wer"
        )
    gone = {row["id"] for row in dropped}
    return corpus.select([i for i, name in enumerate(ids) if name not in gone]), dropped


def _check_groups(thresholds: dict[str, float], groups: set[str]) -> None:
    if unknown := sorted(thresholds.keys() - groups - {DEFAULT}):
        raise UserError(
            f"filter_max_wer names the group {unknown[0]}, and the training data have {', '.join(sorted(groups))}"
        )
    if DEFAULT not in thresholds and (lacking := sorted(groups - thresholds.keys())):
        raise UserError(f"filter_max_wer has no threshold for the group {lacking[0]}; add it, or one for {DEFAULT}")


def _check_ids(ids: Sequence[str], written: dict[str, str], transcripts: str | Path) -> None:
    lacking = [name for name in ids if name not in written]
    if len(lacking) == len(ids):
        raise UserError(
            f"{transcripts} has a transcript of none of the {len(ids)} training utterances; transcribe the same corpus"
        )
    if lacking:
        logger.warning(
            "%d of %d training utterances have no transcript in %s and are kept, %s for one; transcribe the whole "
            "corpus to judge all",
            len(lacking),
            len(ids),
            transcripts,
            lacking[0],
        )
