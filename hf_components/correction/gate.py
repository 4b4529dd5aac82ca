"""The gate for an LLM's proposals: a plain function, without a model.

A proposal passes if every stretch of changed words could be a mishearing of the words that it replaces. The limits are
strict: a wrong rejection loses a correction, but a wrong acceptance makes a wrong label.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from hf_components.correction.writing import in_writing
from hf_components.runtime import first_few, is_invisible


@dataclass(frozen=True)
class GateLimits:
    """How much a proposal may differ from the recogniser's text.

    Lengths and (Levenshtein) distances are in characters of the case-folded texts without punctuation; within a
    stretch of changed words also without spaces.

    Args:
        min_length_ratio, max_length_ratio: length of the proposal / length of the recogniser's text.
        max_distance: distance of the two texts / length of the longer one.
        max_added: characters that a stretch may gain: enough for a missed function word, not for a phrase.
        max_removed: characters that a stretch may lose: enough for repeated words, not for a clause.
        max_stretch_distance: distance of the two sides of a stretch / length of the longer one. Mishearings share
            letters, answers to the transcript do not. Sides without a common letter never pass.
        spare: characters allowed in addition to ratios and distances, so that words of three letters can be corrected.
    """

    min_length_ratio: float = 0.6
    max_length_ratio: float = 1.25
    max_distance: float = 0.35
    max_added: int = 4
    max_removed: int = 12
    max_stretch_distance: float = 0.5
    spare: int = 2


LIMITS = GateLimits()


@dataclass(frozen=True)
class Verdict:
    """The decision about a proposal.

    Args:
        accepted: whether it may replace the recogniser's text.
        reason: "corrected" or "unchanged"; else the problem, with a detail after a colon.
        text: final text: the proposal in the recogniser's writing, or the recogniser's text.
    """

    accepted: bool
    reason: str
    text: str


NO_TEXT = ("Cn", "Co")  # characters that are not assigned, or private
FILLERS = frozenset("\u115f\u1160\u3164\uffa0")  # letters without a shape
JOINED = (
    "\u0600-\u08ff\u0900-\u0dff\u0e00-\u109f\u1780-\u17ff"  # scripts that joiners shape: Arabic, those of India, ...
)
# Joiners elsewhere, several in a row, and more marks on a letter than any writing has.
STRAY_MARKS = re.compile(
    rf"(?<![{JOINED}])[\u200c\u200d]+|[\u200c\u200d]{{2,}}|[\u200c\u200d]+(?![{JOINED}])|"
    r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f]{4,}"
)
# Characters that assistants write but nobody says: quotation, lists, emphasis, tags, "Corrected:".
CHAT_MARKS = set('"\u201c\u201d\u201e\u00ab\u00bb`*_#<>[](){}|\\:=~^\u2022')
# Phrases of assistants that talk about their work.
CHAT_PHRASES = (
    "as an ai",
    "ai assistant",
    "language model",
    "corrected transcript",
    "corrected text",
    "corrected version",
    "corrected sentence",
    "the transcript",
    "transcript is",
    "no errors",
    "no corrections",
    "no changes",
    "already correct",
    "cannot assist",
    "cannot help",
    "cannot fulfill",
    "can't assist",
    "can't help",
    "can't fulfill",
    "unable to assist",
    "unable to help",
    "unable to correct",
    "happy to help",
    "let me know if",
    "i apologize",
    "provide more context",
)
# Words at the beginning or end of answers. Most likely they come from the LLM, not from the recording.
CHAT_WORDS = {
    "absolutely",
    "answer",
    "assistant",
    "certainly",
    "corrected",
    "correction",
    "explanation",
    "here",
    "here's",
    "no",
    "note",
    "ok",
    "okay",
    "output",
    "sorry",
    "sure",
    "system",
    "thanks",
    "transcript",
    "user",
    "yes",
}


def gate(
    heard: str,
    proposed: str,
    alphabet: frozenset[str] | None = None,
    limits: GateLimits = LIMITS,
    *,
    partly: bool = False,
) -> Verdict:
    """Accept or reject an LLM's proposal for a transcript.

    Args:
        heard: text of the recogniser, not empty.
        proposed: unchanged reply of the LLM.
        alphabet: characters that the recogniser can write, including the space; None if it can write any character.
        partly: judge every stretch of changed words alone, and accept those that may be mishearings.
    """
    text = in_writing(proposed, heard, alphabet)
    objection = _invisible(heard, proposed) or _chat(heard, proposed) or _unwritable(heard, text, alphabet)
    if partly and not objection:
        unchanged = in_writing(heard, heard, alphabet)
        passed = _without_far_stretches(unchanged, text, limits)
        text = passed if passed != unchanged else text  # if nothing passes, the reason is that of the whole
    objection = objection or _too_far(heard, text, limits)
    if objection:
        return Verdict(False, objection, heard)
    if text == in_writing(heard, heard, alphabet):  # equal except for spaces and composed characters
        return Verdict(True, "unchanged", heard)
    return Verdict(True, "corrected", text)


def comparable(text: str) -> str:
    """Case-folded words with single spaces between them; an apostrophe is part of its word."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.casefold().replace("\u2019", "'")))


def _invisible(heard: str, proposed: str) -> str | None:
    """An objection to characters that nobody sees or says, and that are not in what was heard."""
    new = "".join(proposed.strip().replace("\t", " ").splitlines())  # several lines have an objection of their own
    odd = sorted(
        {c for c in new if is_invisible(c) or unicodedata.category(c) in NO_TEXT or c in FILLERS} - set(heard)
    )
    if odd:
        return f"invisible characters: {first_few([f'U+{ord(c):04X}' for c in odd])}"
    for stray in STRAY_MARKS.finditer(new):
        if stray[0] not in heard:
            return f"invisible characters: {first_few([f'U+{ord(c):04X}' for c in stray[0]])}"
    return None


def _scripts(text: str) -> set[str]:
    """The scripts of the letters: LATIN, CYRILLIC, ...; those of Japanese, written together, are one."""
    letters = {c for c in text if unicodedata.category(c).startswith("L")}
    found = {unicodedata.name(c, "UNNAMED").replace("-", " ").split()[0] for c in letters}
    return {"CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in found}


def _chat(heard: str, proposed: str) -> str | None:
    reply = proposed.strip()
    if not comparable(reply):
        return "empty reply"
    if len(reply.splitlines()) > 1:
        return "several lines"
    if marks := sorted({c for c in reply if c in CHAT_MARKS or unicodedata.category(c)[0] == "S"} - set(heard)):
        return f"marks of chat: {' '.join(marks)}"
    if reply[0] == reply[-1] == "'" != heard[0]:
        return "marks of chat: '"
    before = comparable(heard)
    after = comparable(reply)
    if phrases := [phrase for phrase in CHAT_PHRASES if _within(phrase, after) and not _within(phrase, before)]:
        return f"chat: {phrases[0]}"
    added = {word for old, new in _stretches(before.split(), after.split()) if not old for word in new}
    if words := sorted(added & CHAT_WORDS):
        return f"chat: {words[0]}"
    return None


def _unwritable(heard: str, text: str, alphabet: frozenset[str] | None) -> str | None:
    if alphabet is not None and (strangers := sorted(set(text) - alphabet)):
        return f"characters that the recogniser cannot write: {' '.join(strangers)}"
    if (before := _scripts(heard)) and (strangers := sorted(_scripts(text) - before)):
        return f"letters of another script: {' '.join(strangers).lower()}"
    if re.findall(r"\d", text) != re.findall(r"\d", heard):  # no language model can know which digits were spoken
        return "other digits"
    return None


def _too_far(heard: str, text: str, limits: GateLimits) -> str | None:
    before = comparable(heard)
    after = comparable(text)
    shortest = limits.min_length_ratio * len(before) - limits.spare
    longest = limits.max_length_ratio * len(before) + limits.spare
    if not shortest <= len(after) <= longest:
        return f"length: {len(after)} characters for {len(before)}"
    distance = Levenshtein.distance(before, after)
    if distance > limits.max_distance * max(len(before), len(after)) + limits.spare:
        return f"distance: {distance} edits of {len(before)} characters"
    stretches = list(_stretches(before.split(), after.split()))
    at_end = after.split()[-1:] != before.split()[-1:]
    return next(
        (
            problem
            for words in stretches
            if (problem := _far(*words, limits, is_last=at_end and words is stretches[-1]))
        ),
        None,
    )


def _far(old_words: list[str], new_words: list[str], limits: GateLimits, *, is_last: bool) -> str | None:
    """An objection to a stretch of changed words; `is_last`: it changes the end of the text."""
    old = "".join(old_words)
    new = "".join(new_words)
    described = f"{' '.join(old_words)!r} became {' '.join(new_words)!r}"
    if len(new) - len(old) > limits.max_added:
        return f"added words: {described}"
    if len(old) - len(new) > limits.max_removed:
        return f"removed words: {described}"
    if is_last and len(new_words) > len(old_words) and new.startswith(old):  # recognisers miss words between others
        return f"went on after the end: {described}"
    allowed = limits.max_stretch_distance * max(len(old), len(new)) + limits.spare
    if old and new and (Levenshtein.distance(old, new) > allowed or not set(old) & set(new)):
        return f"other words: {described}"
    return None


def _without_far_stretches(heard: str, text: str, limits: GateLimits) -> str:
    """The text, with what was heard in place of the changes that `_far` objects to.

    A stretch of as many words as were heard is judged word by word.
    """
    old = heard.split()
    new = text.split()
    kept: list[str] = []
    i = j = 0
    for same in Levenshtein.editops([*map(comparable, old)], [*map(comparable, new)]).as_matching_blocks():
        changes = [(old[i : same.a], new[j : same.b])]
        if same.a - i == same.b - j:
            changes = [([a], [b]) for a, b in zip(*changes[0], strict=True)]
        is_end = same.a == len(old) and same.b == len(new)
        for before, after in changes:
            compared = [comparable(" ".join(words)).split() for words in (before, after)]
            kept += before if _far(*compared, limits, is_last=is_end) else after
        i = same.a + same.size
        j = same.b + same.size
        kept += new[same.b : j]
    return " ".join(kept)


def _stretches(old: list[str], new: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The changed stretches of words: old and new words of each."""
    i = j = 0
    for same in Levenshtein.editops(old, new).as_matching_blocks():  # ends with an empty one
        if same.a > i or same.b > j:
            yield old[i : same.a], new[j : same.b]
        i = same.a + same.size
        j = same.b + same.size


def _within(phrase: str, text: str) -> bool:
    return f" {phrase} " in f" {text} "
