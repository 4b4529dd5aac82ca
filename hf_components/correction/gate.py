"""The gate between an LLM's proposals and the transcripts: a plain function, without a model.

A proposal passes if every stretch of changed words could be a mishearing of the words in its place. What is stopped
wrongly costs a correction, what passes wrongly spoils a label, so the limits are strict.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from hf_components.correction.writing import in_writing


@dataclass(frozen=True)
class GateLimits:
    """How far a proposal may be from what was heard.

    Lengths and (Levenshtein) distances are in characters of the texts as they are compared: case-folded and without
    punctuation; within a stretch of changed words without spaces, too.

    Args:
        min_length_ratio, max_length_ratio: length of the proposal by that of what was heard.
        max_distance: between the two, by the length of the longer one.
        max_added: what a stretch may grow by: a missed function word, no phrase.
        max_removed: what a stretch may shrink by: words said twice, no clause.
        max_stretch_distance: between the two sides of a stretch, by the length of the longer one. Mishearings share
            letters, answers to the transcript do not; sides without a common letter never pass.
        spare: characters that the ratios and distances leave free, or no word of three letters could be mended.
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
    """What becomes of a proposal.

    Args:
        accepted: it may replace what was heard.
        reason: "corrected" or "unchanged"; else what is wrong with it, a detail after a colon.
        text: what to keep: the proposal in the recogniser's writing, or what was heard.
    """

    accepted: bool
    reason: str
    text: str


# What assistants write and nobody says: quotation, lists, emphasis, tags, "Corrected:".
CHAT_MARKS = set('"\u201c\u201d\u201e\u00ab\u00bb`*_#<>[](){}|\\:=~^\u2022')
# Of assistants that speak of their work.
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
# Words that answers begin or end with; a recogniser that missed them is less likely than an LLM that talks.
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


def gate(heard: str, proposed: str, alphabet: frozenset[str] | None = None, limits: GateLimits = LIMITS) -> Verdict:
    """Judge an LLM's proposal for a transcript.

    Args:
        heard: what the recogniser wrote, not empty.
        proposed: the LLM's reply, as it came.
        alphabet: characters that the recogniser can write, space included; None if it can spell anything.
    """
    text = in_writing(proposed, heard, alphabet)
    objection = _chat(heard, proposed) or _unwritable(heard, text, alphabet) or _too_far(heard, text, limits)
    if objection:
        return Verdict(False, objection, heard)
    if text == in_writing(heard, heard, alphabet):  # but for spaces and composed characters
        return Verdict(True, "unchanged", heard)
    return Verdict(True, "corrected", text)


def comparable(text: str) -> str:
    """Case-folded words parted by single spaces; an apostrophe belongs to its word."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.casefold().replace("\u2019", "'")))


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
    if re.findall(r"\d", text) != re.findall(r"\d", heard):  # which were heard or not: no language model can know them
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
    for words in _stretches(before.split(), after.split()):
        old, new = map("".join, words)
        described = f"{' '.join(words[0])!r} became {' '.join(words[1])!r}"
        if len(new) - len(old) > limits.max_added:
            return f"added words: {described}"
        if len(old) - len(new) > limits.max_removed:
            return f"removed words: {described}"
        allowed = limits.max_stretch_distance * max(len(old), len(new)) + limits.spare
        if old and new and (Levenshtein.distance(old, new) > allowed or not set(old) & set(new)):
            return f"other words: {described}"
    return None


def _stretches(old: list[str], new: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    """The changed stretches of words, each as it was and as it is now."""
    i = j = 0
    for same in Levenshtein.editops(old, new).as_matching_blocks():  # ends with an empty one
        if same.a > i or same.b > j:
            yield old[i : same.a], new[j : same.b]
        i = same.a + same.size
        j = same.b + same.size


def _within(phrase: str, text: str) -> bool:
    return f" {phrase} " in f" {text} "
