"""What is scored: the references of a corpus or a manifest, and the transcripts of a system."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_components.metrics.ipa_cer.ipa import normalize_ipa
from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.runtime import (
    GROUP,
    PHONETIC,
    SPEAKER,
    TEXT,
    UserError,
    first_few,
    id_field,
    label_field,
    read_by_id,
    text_field,
)
from hf_components.speech import WORDS, is_known, plain_text, to_ipa

logger = logging.getLogger(__name__)

NOT_PLAIN = "typographic apostrophes, invisible characters, HTML entities or special tokens"
UNKNOWN_GROUP = "unknown"


@dataclass
class References:
    """References: lists of equal length, with one item per utterance. `speakers` may have "unknown"."""

    ids: list[str]
    texts: list[str]
    speakers: list[str]
    groups: list[str]

    @property
    def units(self) -> list[str] | None:
        """What intervals resample: speakers, or None for utterances if a speaker is unknown."""
        return self.speakers if all(map(is_known, self.speakers)) else None


def references_of_corpus(corpus: datasets.Dataset) -> References:
    """The texts of a split of a prepared corpus."""
    return References(*(corpus[column][:] for column in ("id", "text", "speaker_id", "group")))


def references_of_manifest(path: str | Path, target: str = WORDS, g2p: str | None = None) -> References:
    """The transcripts of a manifest, in the form that the competition scores; rows without one are left out.

    Args:
        target, g2p: words or IPA, and the voice that makes it for rows with only words; see `load_corpus`.
    Raises:
        UserError: the file is not a manifest, has no transcripts, or has an id twice.
    """
    rows = {}
    without = []
    changed = []
    for line, name, row in _lines(path, target, g2p):
        if not _has(row, TEXT):
            without.append(line)
            continue
        group = label_field(row, GROUP, path, line) or ""
        text = text_field(row, TEXT, path, line).strip()
        rows[name] = (plain_text(text), id_field(row, SPEAKER, path, line), group or UNKNOWN_GROUP)
        if target == WORDS and _is_scored_otherwise(text):
            changed.append(line)
    field = TEXT if target == WORDS else target
    if not rows:
        raise UserError(f"{path} has no row with {field} to score against; give references, or another --target")
    if without:
        text = "%d rows of %s have no %s and are not scored: line %s"
        logger.warning(text, len(without), path, field, first_few(without))
    if changed:
        text = (
            "%d references of %s hold %s and are scored as plain text; a competition may count them as errors: line "
        )
        text += "%s"
        logger.warning(text, len(changed), path, NOT_PLAIN, first_few(changed))
    return References(list(rows), *map(list, zip(*rows.values(), strict=True)))


def read_transcripts(path: str | Path, target: str = WORDS, g2p: str | None = None) -> dict[str, str]:
    """Text by id.

    Args:
        target, g2p: words or IPA, and the voice that makes it from words.
    Raises:
        UserError: a line lacks `utterance_id` or its text, or an id appears twice.
    """
    lines = _lines(path, target, g2p)
    if target == PHONETIC and (lacking := [line for line, _, row in lines if row[TEXT] is None]):
        raise UserError(
            f"{path}, line {lacking[0]}, has no {PHONETIC}; --g2p en-us makes it from {TEXT}, if that is there"
        )
    found = {name: text_field(row, TEXT, path, line) for line, name, row in lines}
    odd = [name for name, text in found.items() if target == WORDS and _is_scored_otherwise(text)]
    if odd:
        text = "%d transcripts of %s hold %s, which count as errors, such as %s; write them as plain text"
        logger.warning(text, len(odd), path, NOT_PLAIN, odd[0])
    return found


def align(name: str, transcripts: Mapping[str, str], references: References) -> tuple[list[str], dict]:
    """Transcripts in the order of the references. A missing one is empty, so that all its words count as deleted.

    Returns:
        the texts, and the numbers of ids that are `missing` and `unknown`; both cause a warning.
    Raises:
        UserError: no id is among the references.
    """
    missing = [utterance for utterance in references.ids if utterance not in transcripts]
    unknown = list(transcripts.keys() - set(references.ids))
    if len(missing) == len(references.ids):
        raise UserError(
            f"{name} has no transcript of any of the {len(missing)} utterances, such as {missing[0]}; it holds "
            f"{first_few(unknown) or 'nothing'}: does it belong to another split?"
        )
    if missing:
        text = "%s lacks %d of %d utterances, which count as empty: %s"
        logger.warning(text, name, len(missing), len(references.ids), first_few(missing))
    if unknown:
        text = "%s has %d ids that are not among the references and are left out: %s"
        logger.warning(text, name, len(unknown), first_few(sorted(unknown)))
    texts = [transcripts.get(utterance, "") for utterance in references.ids]
    return texts, {"missing": len(missing), "unknown": len(unknown)}


def _lines(path: str | Path, target: str, g2p: str | None) -> list[tuple[int, str, dict]]:
    """Line number, id and object of each line; for IPA, the spelling of `normalize_ipa` takes the place of the words.

    IPA that is missing is made from the words, with a warning, or the line has no text.
    """
    lines = list(read_by_id(path))
    if target == WORDS:
        return lines
    ipa = {
        name: normalize_ipa(text_field(row, PHONETIC, path, line)) for line, name, row in lines if _has(row, PHONETIC)
    }
    if g2p:
        words = {
            name: text_field(row, TEXT, path, line) for line, name, row in lines if name not in ipa and _has(row, TEXT)
        }
        ipa |= zip(words, to_ipa(words.values(), g2p), strict=True)
        if words:
            logger.warning("%s: IPA of %d of %d rows is made from words by eSpeak NG", path, len(words), len(lines))
    return [(line, name, {**row, TEXT: ipa.get(name)}) for line, name, row in lines]


def _has(row: Mapping, field: str) -> bool:
    value = row.get(field)
    return value is not None and value == value  # pandas writes NaN for a missing value


def _is_scored_otherwise(text: str) -> bool:
    """Whether the plain text has another score than the text itself."""
    plain = plain_text(text)
    return plain != " ".join(text.split()) and normalize(plain) != normalize(text)
