"""Clean training targets from transcripts with the markup of the Speech Accessibility Project."""

import re

OPENING = {"[": "]", "{": "}", "(": ")"}
UNINTELLIGIBLE_WORDS = re.compile(r"\s*w\s*:\s*(\d{1,3})?\s*", re.IGNORECASE)
UNINTELLIGIBLE_GUESS = re.compile(r"\s*u\s*:.*", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"\s*[A-Za-z][\w-]*\s*:")
DISFLUENCIES = ("keep", "drop")


def clean_transcript(raw: str, disfluencies: str = "keep") -> str:
    """Return the words of a transcript, without markup.

    `[...]` is a comment and is removed. `{tag: words}` and `{words}` keep their words. `(...)` is a disfluency: its
    words are kept or dropped. `{w:N}`, `{u: guess}` and `{ }` mark speech that nobody understood, and are removed
    (`count_unintelligible` counts them). Marks may be nested. A bracket without a partner is removed, and the words
    around it stay. Text without markup is returned as it is, apart from white space.

    Returns:
        the clean text, or "" if no letter or digit is left.
    """
    text = _strip_markup(raw, disfluencies)[0]
    text = " ".join(text.split())
    if text != " ".join(raw.split()):
        text = _tidy(text)
    return text if any(character.isalnum() for character in text) else ""


def count_unintelligible(raw: str) -> int:
    """Count the words that nobody understood: N for `{w:N}`, one for `{u: ...}` and for `{ }`."""
    return _strip_markup(raw, "keep")[1]


def _strip_markup(raw: str, disfluencies: str) -> tuple[str, int]:
    """Walk once over the transcript with a stack of open brackets; deep nesting needs no recursion."""
    stack: list[list] = [["", [], 0]]  # opening bracket, pieces of text within, unintelligible words within
    for character in raw:
        if character in OPENING:
            stack.append([character, [], 0])
        elif character in OPENING.values():
            if any(OPENING.get(opening) == character for opening, _, _ in stack):
                while OPENING[stack[-1][0]] != character:
                    _close_without_partner(stack)
                _close(stack, disfluencies)
        else:
            stack[-1][1].append(character)
    while len(stack) > 1:
        _close_without_partner(stack)
    return "".join(stack[0][1]), stack[0][2]


def _close(stack: list[list], disfluencies: str) -> None:
    opening, pieces, count = stack.pop()
    text = "".join(pieces)
    if opening == "[":
        text, count = "", 0
    elif opening == "(" and disfluencies == "drop":
        text = ""
    elif opening == "{":
        if words := UNINTELLIGIBLE_WORDS.fullmatch(text):
            text = ""
            count = int(words[1] or 1)
        elif UNINTELLIGIBLE_GUESS.fullmatch(text) or not (text.strip() or count):
            text = ""
            count = max(count, 1)
        else:
            text = TAG.sub("", text, count=1) if TAG.match(text) else text
    _append(stack, text, count)


def _close_without_partner(stack: list[list]) -> None:
    opening, pieces, count = stack.pop()
    text = "".join(pieces)
    if opening == "{" and (tag := UNINTELLIGIBLE_WORDS.match(text) or TAG.match(text)):
        text = text[tag.end() :]
    _append(stack, text, count)


def _append(stack: list[list], text: str, count: int) -> None:
    stack[-1][1].append(f" {text} " if not text.strip() else text)  # removed markup still separates words
    stack[-1][2] += count


def _tidy(text: str) -> str:
    """Fix the punctuation that removed markup leaves behind."""
    text = re.sub(r"\s+([,.;:?!])", r"\1", text)
    text = re.sub(r"[,;:]+(?=[,.;:?!])", "", text)  # ", ," and ", ." keep the last, stronger mark
    return re.sub(r"^[,.;:?!\s]+", "", text)
