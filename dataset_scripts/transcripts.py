"""Clean training targets from transcripts with the markup of the Speech Accessibility Project.

The project's own kit, github.com/xiuwenz2/SAPC-template, reads the marks in the same way.
"""

import re

from hf_components.speech import has_words, plain_text

OPENING = {"[": "]", "{": "}", "(": ")"}
UNINTELLIGIBLE_WORDS = re.compile(r"\s*w\s*:\s*(\d{1,3})?\s*", re.IGNORECASE)
UNINTELLIGIBLE_GUESS = re.compile(r"\s*u\s*:.*", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"\s*[A-Za-z][\w-]*\s*:")
HEADER = re.compile(r"\A[\s\ufeff]*#dis\b", re.IGNORECASE)
LETTER = re.compile(r"~(?=[^\W\d_])")
CUT_OFF = re.compile(r"(?<=[^\W\d_])(-?)-*\*(?![\w*])")
DISFLUENCIES = ("keep", "drop")


def clean_transcript(raw: str, disfluencies: str = "keep", *, markup: bool = True) -> str:
    """Return the words of a transcript as plain text (see `plain_text`), without markup.

    `[...]` is a comment and is removed. `{tag: words}` and `{words}` keep their words. `(...)` is a disfluency: its
    words are kept or dropped, but those of `(tag: words)`, such as `(cs: ...)`, are always kept. `{w:N}`, `{u: guess}`
    and `{ }` mark speech that nobody understood, and are removed (`count_unintelligible` counts them). `~` before a
    spelled letter, `*` after a word that was cut off, as in `(f-*)`, and a first line `#dis` are removed too. Marks
    may be nested. A bracket without a partner is removed, and the words around it stay. Text without markup is
    only made plain.

    Args:
        markup: whether the transcript may have marks; otherwise it is only made plain.
    Returns:
        the clean text, or "" if no letter or digit is left.
    """
    plain = plain_text(raw)
    text = " ".join(_strip_markup(plain, disfluencies)[0].split()) if markup else plain
    if text != plain:
        text = _tidy(text)
    return text if has_words(text) else ""


def count_unintelligible(raw: str) -> int:
    """Count the words that nobody understood: N for `{w:N}`, one for `{u: ...}` and for `{ }`."""
    return _strip_markup(plain_text(raw), "keep")[1]


def _strip_markup(raw: str, disfluencies: str) -> tuple[str, int]:
    """Walk once over the transcript with a stack of open brackets; deep nesting needs no recursion."""
    plain = CUT_OFF.sub(r"\1", LETTER.sub("", HEADER.sub("", raw)))
    stack: list[list] = [["", [], 0]]  # opening bracket, pieces of text within, unintelligible words within
    for character in plain:
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
        text = ""
        count = 0
    elif opening == "(" and not TAG.match(text):
        text = text if disfluencies == "keep" else ""
    elif opening == "{":
        if words := UNINTELLIGIBLE_WORDS.fullmatch(text):
            text = ""
            count = int(words[1] or 1)
        elif UNINTELLIGIBLE_GUESS.fullmatch(text) or not (text.strip() or count):
            text = ""
            count = max(count, 1)
        else:
            text = _without_tag(text)
    else:
        text = _without_tag(text)
    _append(stack, text, count)


def _close_without_partner(stack: list[list]) -> None:
    opening, pieces, count = stack.pop()
    text = "".join(pieces)
    if opening == "{" and (words := UNINTELLIGIBLE_WORDS.match(text)):
        text = text[words.end() :]
    _append(stack, _without_tag(text) if opening in ("{", "(") else text, count)


def _without_tag(text: str) -> str:
    tag = TAG.match(text)
    return text[tag.end() :] if tag else text


def _append(stack: list[list], text: str, count: int) -> None:
    stack[-1][1].append(f" {text} " if not text.strip() else text)  # removed markup still separates words
    stack[-1][2] += count


def _tidy(text: str) -> str:
    """Fix the punctuation that removed markup leaves behind."""
    text = re.sub(r"\s+([,.;:?!])", r"\1", text)
    text = re.sub(r"[,;:]+(?=[,.;:?!])", "", text)  # ", ," and ", ." keep the last, stronger mark
    return re.sub(r"^[,.;:?!\s]+", "", text)
