"""What a recogniser learns to write: the words of a corpus, or its sounds in IPA."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import Dataset

from hf_components.metrics.ipa_cer.ipa import normalize_ipa, unknown_symbols
from hf_components.runtime import PHONETIC, UserError, first_few, flag
from hf_components.speech.espeak_ng import EspeakNg

logger = logging.getLogger(__name__)

WORDS = "text"
TARGETS = (WORDS, PHONETIC)  # columns of a prepared corpus
LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # eSpeak NG marks foreign words so
# The symbols of eSpeak NG's English that the children's challenge writes in another way, or not at all.
OF_ENGLISH = {"n\u0329": "ən", "l\u0329": "əl", "ɜ": "ɚ", "a": "ɑ", "ɒ": "ɑ", "ᵻ": "ɪ", "ɡ": "g", "ʲ": "", "ː": ""}


@dataclass
class TargetArguments:
    """What is written, and by what letters are turned into sounds."""

    target: str = flag("what to write: text (words), or phonetic_text (IPA)", default=WORDS, choices=TARGETS)
    g2p: str | None = flag(
        "voice of eSpeak NG, such as en-us, that gives rows without IPA one made from their words",
        default=None,
        needs={"target": PHONETIC},
    )


def to_ipa(texts: Iterable[str], voice: str) -> list[str]:
    """IPA of texts by the rules and the dictionary of eSpeak NG, in the spelling of `normalize_ipa`.

    It is what the words should sound like, and not what somebody said.

    Args:
        voice: language of eSpeak NG, such as "en-us".
    Raises:
        UserError: eSpeak NG is not installed or has no such voice.
    """
    texts = list(texts)
    if not texts:  # the synthesiser may not be installed, and is not needed
        return []
    with EspeakNg() as synthesiser:
        known: dict[str, str] = {}
        for text in texts:
            if text not in known:
                known[text] = _respelled(synthesiser.phonemes(text, voice), voice)
        return [known[text] for text in texts]


def with_target(rows: Dataset, target: str, g2p: str | None, name: str) -> Dataset:
    """The rows that have the target, which becomes their `text`; the others are left out with a warning.

    IPA is spelled as by `normalize_ipa`.

    Args:
        target: one of `TARGETS`.
        g2p: voice of `to_ipa` for rows with words but without IPA; None leaves them out.
        name: name of the rows in messages.
    Raises:
        UserError: no row has the target.
    """
    has_ipa = PHONETIC in rows.column_names
    if target == WORDS and not has_ipa:
        return rows
    words = rows[WORDS][:]
    ipa = [normalize_ipa(text or "") for text in rows[PHONETIC]] if has_ipa else [""] * len(words)
    if target == WORDS:  # rows without words and IPA are for transcribing, and stay
        kept = [i for i, text in enumerate(words) if text or not ipa[i]]
    else:
        ipa = _with_ipa_of_words(ipa, words, g2p, name) if g2p else ipa
        kept = [i for i, text in enumerate(ipa) if text]
        if odd := sorted({symbol for text in ipa for symbol in unknown_symbols(text)}):
            logger.warning("%s: the children's challenge refuses the symbols %s", name, " ".join(odd))
        rows = rows.remove_columns(WORDS).add_column(WORDS, ipa)
    if len(kept) == len(words):
        return rows
    if not kept:
        advice = "" if target == WORDS or g2p else "; --g2p en-us makes IPA from their words"
        raise UserError(f"{name}: none of {len(words)} rows has {target}{advice}")
    left_out = [rows["id"][i] for i in sorted(set(range(len(words))) - set(kept))]
    text = "%s: %d of %d rows have no %s and are left out: %s"
    logger.warning(text, name, len(left_out), len(words), target, first_few(left_out))
    return rows.select(kept)


def _with_ipa_of_words(ipa: Sequence[str], words: Sequence[str], g2p: str, name: str) -> list[str]:
    """The IPA of rows, made by eSpeak NG where there is none, but words."""
    lacking = [i for i, text in enumerate(words) if text and not ipa[i]]
    if lacking:
        logger.warning("%s: IPA of %d of %d rows is made from words by eSpeak NG", name, len(lacking), len(words))
    made = dict(zip(lacking, to_ipa([words[i] for i in lacking], g2p), strict=True))
    return [made.get(i, text) for i, text in enumerate(ipa)]


def count_from_words(rows: Dataset, target: str) -> int:
    """How many of the rows of `with_target` have IPA that was made from their words."""
    if target == WORDS:
        return 0
    return sum(not text for text in rows[PHONETIC]) if PHONETIC in rows.column_names else len(rows)


def _respelled(clauses: Sequence[str], voice: str) -> str:
    text = LANGUAGE_SWITCH.sub("", " ".join(clauses))
    if voice.startswith("en"):
        for theirs, ours in OF_ENGLISH.items():
            text = text.replace(theirs, ours)
    return normalize_ipa(text)
