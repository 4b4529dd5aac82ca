"""What is expected of a text of a recording by the votes on it: how many of its words are wrong, and which."""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from hf_components.correction.finetuning.consensus import Place
from hf_components.scoring import normalized, utterance_errors

UNHEARD = 0.5  # share of the places where nobody is right in which an LLM guesses the right word


def expected_errors(places: Sequence[Place], text: str) -> float:
    """Expected errors of another text of a recording, by the votes on it.

    A word that no recogniser wrote is right half as often as it is right that they all are wrong there.
    """
    told = [place for place in places if place.word]
    silent = sum(place.wrong for place in places if not place.word)
    errors = silent
    for change, start, end, own_start, own_end in _changes(told, text):
        if change == "insert":
            errors += own_end - own_start
            continue
        for place, word in zip(
            told[start:end], _padded(_normalized(text)[own_start:own_end], end - start), strict=True
        ):
            nobody = max(0.0, 1 - sum(place.right.values()))
            errors += 1 - place.right.get(word, UNHEARD * nobody)
    return errors


def where_unsure(places: Sequence[Place], text: str, sure: float) -> str:
    """The vote on a recording, with another text's words where the recognisers are not sure.

    Args:
        text: what an LLM makes of it.
        sure: words that are right with at least this probability stay; between two of them no word is added.
    """
    told = [place for place in places if place.word]
    own = text.split()
    doubtful = [False, *(1 - place.wrong < sure for place in told), False]
    words: list[str] = []
    for change, start, end, own_start, own_end in _changes(told, text):
        if change == "insert":
            words += own[own_start:own_end] if doubtful[start] or doubtful[start + 1] else []
        elif change == "equal" or not all(doubtful[start + 1 : end + 1]):
            words += [place.word for place in told[start:end]]
        else:
            words += own[own_start:own_end]
    return " ".join(words)


def estimated_wer(errors: Sequence[float], gold: Sequence[str]) -> float | None:
    """Expected errors per word of the gold; None if it has no words."""
    words = int(utterance_errors(gold, gold)["reference_words"].sum())
    return float(sum(errors) / words) if words else None


def _changes(told: Sequence[Place], text: str) -> list:
    """The stretches in which a text differs from the words of the vote, or does not."""
    return list(Levenshtein.opcodes([_only(place.word) for place in told], _normalized(text)))


def _normalized(text: str) -> list[str]:
    return [_only(word) for word in text.split()]


def _only(word: str) -> str:
    return normalized(word) or word


def _padded(words: list[str], length: int) -> list[str]:
    return words + [""] * (length - len(words))
