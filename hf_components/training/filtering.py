"""Leave out training utterances for which another model's transcript has a WER above a threshold, per group."""

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

DEFAULT = "default"  # key of the threshold for all other groups


@dataclass
class FilterArguments:
    """Filter of training utterances by another model's transcripts.

    `filter_transcripts` is an output of recipes/transcribe.py. Utterances with a WER above `filter_max_wer` between
    its text and the reference are not trained on.
    """

    filter_transcripts: str | None = flag(f"another model's transcripts: JSON lines of {ID} and {TEXT}", default=None)
    filter_max_wer: dict | str | None = flag(
        'largest WER to train on: a number, or JSON per group such as {"3-4": 1.0, "default": 0.5}',
        default=None,
        needs="filter_transcripts",
    )

    def __post_init__(self):
        if (self.filter_transcripts is None) != (self.filter_max_wer is None):
            given = f"{self.filter_transcripts} and {self.filter_max_wer}"
            raise UserError(f"filter_transcripts and filter_max_wer go together, got {given}; give both or neither")
        if self.filter_max_wer is not None:
            parse_thresholds(self.filter_max_wer)


def parse_thresholds(text: str) -> dict[str, float]:
    """Threshold per group, from a number or a JSON object; `default` is the one for all other groups.

    Raises:
        UserError: the text is neither of them, or a threshold is below 0.
    """
    try:
        values = json.loads(text)
        per_group = values if isinstance(values, dict) else {DEFAULT: values}
        thresholds = {str(group): float(value) for group, value in per_group.items()}
        if not thresholds or any(not value >= 0 for value in thresholds.values()):
            raise ValueError("a WER is at least 0")
    except (ValueError, TypeError) as error:
        raise UserError(
            "filter_max_wer must be a number of at least 0 or a JSON object of them, as in "
            f'{{"3-4": 1.0, "default": 0.5}}; got {text!r} ({error})'
        ) from error
    return thresholds


def filtered(
    corpus: datasets.Dataset, filters: FilterArguments, language: str | None = None
) -> tuple[datasets.Dataset, list[dict]]:
    """What `filter_by_transcripts` keeps and drops; all rows and nothing, if no filter is asked for."""
    if filters.filter_transcripts is None:
        return corpus, []
    return filter_by_transcripts(corpus, filters.filter_transcripts, filters.filter_max_wer, language)


def filter_by_transcripts(
    corpus: datasets.Dataset, transcripts: str | Path, max_wer: str, language: str | None = None
) -> tuple[datasets.Dataset, list[dict]]:
    """Keep the utterances whose transcript is close enough to the reference, or missing.

    The WER of an utterance is errors / reference words, normalised as in the `whisper_wer` metric; a reference without
    words counts as one word.

    Args:
        corpus: rows of a prepared corpus.
        transcripts: path of a file for `read_transcripts`.
        max_wer: text for `parse_thresholds`.
        language: language code of the texts; None for English.
    Returns:
        the rows kept, and the dropped ones: id, group, text, transcript, wer, threshold.
    Raises:
        UserError: a group has no threshold, a threshold has no group, no utterance has a transcript, or no utterance
            is left.
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
        threshold = thresholds.get(group, thresholds.get(DEFAULT))
        text = "%s: %d of %d utterances have a WER above %g and are not trained on"
        logger.info(text, group, lost[group], sizes[group], threshold)
    if len(dropped) == len(ids):
        raise UserError(
            f"no utterance is left to train on: all transcripts in {transcripts} have a WER above {max_wer}; raise "
            "filter_max_wer"
        )
    gone = {row["id"] for row in dropped}
    return corpus.select([i for i, name in enumerate(ids) if name not in gone]), dropped


def _check_groups(thresholds: dict[str, float], groups: set[str]) -> None:
    if unknown := sorted(thresholds.keys() - groups - {DEFAULT}):
        known = ", ".join(sorted(groups))
        raise UserError(f"filter_max_wer names the group {unknown[0]}, but the training data have {known}")
    if DEFAULT not in thresholds and (lacking := sorted(groups - thresholds.keys())):
        raise UserError(f"filter_max_wer has no threshold for the group {lacking[0]}; add it, or one for {DEFAULT}")


def _check_ids(ids: Sequence[str], written: dict[str, str], transcripts: str | Path) -> None:
    lacking = [name for name in ids if name not in written]
    if len(lacking) == len(ids):
        found = f"has no transcript of any of the {len(ids)} training utterances"
        raise UserError(f"{transcripts} {found}; transcribe the same corpus")
    if lacking:
        text = "%d of %d training utterances have no transcript in %s and are kept, such as %s; to check all, "
        text += "transcribe the whole corpus"
        logger.warning(text, len(lacking), len(ids), transcripts, lacking[0])
