"""Errors per utterance: a text normaliser, then jiwer's alignment."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from rapidfuzz.distance import Levenshtein

try:
    from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer
except ImportError as error:
    raise ImportError(
        "whisper_wer needs OpenAI's Whisper: pip install openai-whisper "
        "(the package named whisper on PyPI is another program)"
    ) from error

WORD_COUNTS = ("errors", "substitutions", "deletions", "insertions", "hits", "reference_words")
CHARACTER_COUNTS = ("character_errors", "reference_characters")


APOSTROPHES = "\u02b9\u02bb\u02bc\u02bd"  # Unicode calls them letters, and others are typed in their place
JOINERS = "\u200c\u200d"  # part of the spelling in Arabic and Indic scripts
AS_SPACE = "PS"  # first letter of the categories of punctuation and symbols


def without_punctuation(text: str) -> str:
    """Lower case in NFKC; punctuation, symbols and apostrophes become spaces, and what cannot be seen is left out.

    Letters keep their marks, which are vowels in Indic scripts. `BasicTextNormalizer` replaces them by spaces (Manohar
    and Pillai 2024, "What is lost in normalization?", arXiv 2409.02449).
    """
    text = unicodedata.normalize("NFKC", text.lower().replace("i\u0307", "i"))  # of a capital I with dot
    return "".join(map(_visible_or_space, text))


def _visible_or_space(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in AS_SPACE or character in APOSTROPHES:
        return " "
    return "" if category == "Cf" and character not in JOINERS else character


def turkic(text: str) -> str:
    """The same as `without_punctuation`, for languages with two letters i: lower case of I is a dotless i."""
    return without_punctuation(unicodedata.normalize("NFC", text).replace("I", "\u0131").replace("\u0130", "i"))


NORMALIZERS = {
    "english": EnglishTextNormalizer(),
    "basic": BasicTextNormalizer(),
    "unicode": without_punctuation,
    "turkic": turkic,
    "none": str,
}


@lru_cache(maxsize=2**18)  # normalising is slow; prompts occur with many speakers, references in many evaluations
def normalize(text: str, normalizer: str = "english") -> str:
    """The text for scoring, with single spaces and stripped; see `utterance_errors` for the normalisers."""
    return " ".join(NORMALIZERS[normalizer](text).split())


def utterance_errors(
    predictions: Iterable[str], references: Iterable[str | Sequence[str]], normalizer: str = "english"
) -> dict[str, np.ndarray]:
    """Count the errors of every utterance.

    If an utterance has several references, the one with the fewest errors counts, the longer one if they are equal.
    It is chosen separately for words and for characters.

    Args:
        predictions: one text per utterance.
        references: one text, or a sequence of alternative texts, per utterance.
        normalizer: normaliser of both sides: "english" or "basic" (Whisper's `EnglishTextNormalizer` or
            `BasicTextNormalizer`), "unicode" (`without_punctuation`, for other languages), "turkic" (for Turkish and
            Azerbaijani), or "none".
    Returns:
        int64 arrays of shape (utterances,): `errors` (words), `substitutions`, `deletions`, `insertions`, `hits`,
        `reference_words`, `character_errors`, `reference_characters` (spaces count as characters, the same as in
        jiwer).
    Raises:
        ValueError: predictions and references differ in number, an utterance has no reference, or one is no string.
    """
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, got {normalizer!r}")
    predictions = list(predictions)
    references = list(references)
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must be of equal length, got {len(predictions)} and {len(references)}"
        )
    rows = []
    for index, (prediction, alternatives) in enumerate(zip(predictions, references, strict=True)):
        alternatives = [alternatives] if isinstance(alternatives, str) else alternatives
        _check(index, prediction, alternatives)
        hypothesis = normalize(prediction, normalizer)
        texts = [normalize(text, normalizer) for text in alternatives]
        rows.append(
            min((_count_words(text, hypothesis) for text in texts), key=_fewest_errors_then_longest)
            + min((_count_characters(text, hypothesis) for text in texts), key=_fewest_errors_then_longest)
        )
    columns = np.array(rows, dtype=np.int64).reshape(len(rows), len(WORD_COUNTS + CHARACTER_COUNTS)).T
    return dict(zip(WORD_COUNTS + CHARACTER_COUNTS, columns, strict=True))


def _check(index: int, prediction: str, alternatives: Sequence[str]) -> None:
    if not isinstance(prediction, str):
        raise ValueError(f"predictions[{index}] must be a string, got {prediction!r}")
    if not alternatives or not all(isinstance(text, str) for text in alternatives):
        raise ValueError(f"references[{index}] must be a string or a list of at least one, got {alternatives!r}")


def _count_words(reference: str, hypothesis: str) -> tuple[int, ...]:
    words = reference.split()
    tags = [edit.tag for edit in Levenshtein.editops(words, hypothesis.split())]
    substitutions = tags.count("replace")
    deletions = tags.count("delete")
    insertions = tags.count("insert")
    return len(tags), substitutions, deletions, insertions, len(words) - substitutions - deletions, len(words)


def _count_characters(reference: str, hypothesis: str) -> tuple[int, int]:
    return Levenshtein.distance(reference, hypothesis), len(reference)


def _fewest_errors_then_longest(counts: tuple[int, ...]) -> tuple[int, int]:
    return counts[0], -counts[-1]
