"""Texts as the Speech Accessibility Project Challenge (SAPC2) compares them.

The rules are those of https://github.com/xiuwenz2/SAPC-template at the commit `COMMIT`. They are Whisper's
`EnglishTextNormalizer` with changes, so most of the work is done by openai-whisper.
"""

import re
from functools import lru_cache

from whisper.normalizers.basic import remove_symbols_and_diacritics
from whisper.normalizers.english import EnglishNumberNormalizer, EnglishTextNormalizer

COMMIT = "c48d945"
UNKNOWN_WORD = "unk"  # stands for a word that nobody understood
MOST_WORDS = 512  # of a hypothesis
LONGEST_WORD = 64  # characters of a word of a hypothesis

# Spelled letters become one word: T V, t v, U.S.A, S-O-S, ~C ~B.
SPELLED = (
    r"(?<!')\b[A-Z](?:\s+[A-Z])+\b",
    r"(?<!')\b[a-z](?:\s+[a-z])+\b",
    r"\b[A-Za-z](?:\.[A-Za-z])+\b",
    r"\b[A-Za-z](?:-[A-Za-z])+\b",
    r"~[A-Za-z](?:\s+~[A-Za-z])+",
)
# Words before 's that mean "is"; any other 's stays, because it may be a possessive.
BEFORE_IS = frozenset(
    ["it", "what", "where", "when", "why", "how", "who", "that", "there", "here", "she", "he", "let", "coffee"]
)
NOT_OF_WHISPER = (r"\bst\b", r"'s\b")  # replacements of Whisper that the challenge leaves out
# Spellings that differ from Whisper's table.
SPELLINGS = {
    "archaeological": "archeological",
    "archaeology": "archeology",
    "cancellation": "cancelation",
    "cancellations": "cancelations",
    "mm": "hmm",
    "pummelled": "pummeled",
    "pummelling": "pummeling",
    "snowploughs": "snowplows",
    "travelogue": "travelog",
    "travelogues": "travelogs",
}
NO_SPELLINGS = (
    "archeological",
    "cancelation",
    "travelog",
    "travelogs",
)  # entries of Whisper's table that are left out


class _Numbers(EnglishNumberNormalizer):
    """Whisper's numbers, but "1" stays a digit in "1.30"."""

    def postprocess(self, s: str) -> str:
        s = re.sub(
            r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b", lambda money: f"{money[1]}{money[2]}.{int(money[3]):02}", s
        )
        s = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda money: f"¢{int(money[1])}", s)
        return re.sub(r"(?<![\d.])1(s?)(?![.\d])\b", r"one\1", s)


def _rules() -> tuple[dict[str, str], EnglishTextNormalizer]:
    whisper = EnglishTextNormalizer()
    kept = {pattern: words for pattern, words in whisper.replacers.items() if pattern not in NOT_OF_WHISPER}
    for word in NO_SPELLINGS:
        del whisper.standardize_spellings.mapping[word]
    whisper.standardize_spellings.mapping.update(SPELLINGS)
    whisper.standardize_numbers = _Numbers()
    return {**kept, r"'em\b": " them", r"\.{2,}": " "}, whisper


REPLACEMENTS, WHISPER = _rules()


@lru_cache(maxsize=2**18)
def hypothesis_text(raw: str) -> str:
    """Text of a system for scoring: at most 512 words of at most 64 characters. It has no markup to be read."""
    words = _normalise(_lower(raw)).split()[:MOST_WORDS]
    return " ".join(word[:LONGEST_WORD] for word in words)


@lru_cache(maxsize=2**18)
def reference_texts(raw: str) -> list[str]:
    """The two texts that a transcript with markup is scored as: with its disfluencies, and without them.

    Words that nobody understood, `{w:2}` or `{u: guess}`, are "unk" in both.
    """
    plain = re.sub(r"^#dis\s*\n", "", raw.strip(), count=1).replace("\n", "")
    lowered = _lower(plain)
    return [
        " ".join(_normalise(_without_markup(lowered, disfluencies)).lower().split()) for disfluencies in (True, False)
    ]


def _lower(text: str) -> str:
    """Lower case, after what depends on capitals."""
    for pattern in SPELLED:
        text = re.sub(pattern, lambda found: "".join(re.findall("[A-Za-z]", found[0])), text)
    text = re.sub(r"\bSt\.\s*(\S*)", _saint_or_street, text)
    return re.sub(r"\b(\w+)'s\b", _expand_is, text.lower())


def _saint_or_street(found: re.Match) -> str:
    return f"saint {found[1]}" if re.match("[A-Z]", found[1]) else f"street {found[1]}"


def _expand_is(found: re.Match) -> str:
    return f"{found[1]} is" if found[1] in BEFORE_IS else found[0]


def _without_markup(text: str, disfluencies: bool) -> str:
    """Read the marks of a transcript in lower case. Marks do not nest, and end on their own line."""
    text = re.sub(r"\[.*?\]", " ", text)
    text = re.sub(r".*?\]", " ", text)  # a comment whose beginning is lost
    text = re.sub(r"\{(.*?)\}", lambda mark: "{" + _words_in_braces(mark[1]) + "}", text)
    parentheses = _kept if disfluencies else _dropped
    return re.sub(r"\((.*?)\)", parentheses, text)


def _words_in_braces(content: str) -> str:
    tag, _, words = content.rpartition(":")
    if tag == "w":
        number = re.search(r"\d+", words)
        return " ".join([UNKNOWN_WORD.upper()] * int(number[0])) if number else " "
    if tag == "u" or content == " ":
        return UNKNOWN_WORD.upper()
    return f" {words}" if tag else content.replace(":", " ")


def _kept(found: re.Match) -> str:
    tag, _, words = found[1].rpartition(":")
    return f"( {words})" if tag else found[0]


def _dropped(found: re.Match) -> str:
    tag, _, words = found[1].rpartition(":")
    return f"  {words}" if tag else ""


def _normalise(text: str) -> str:
    """The rules for both sides, for text in lower case."""
    text = re.sub(WHISPER.ignore_patterns, "", text)
    text = text.replace('"', " ")
    text = re.sub(r"(?<!\w)'|'(?!\w)", " ", text)  # quotes, and not the apostrophe within a word
    for pattern, words in REPLACEMENTS.items():
        text = re.sub(pattern, words, text)
    text = re.sub(r"(\d),(\d)", r"\1\2", text)
    text = re.sub(r"\.(?!\d)", " ", re.sub(r"\.+", ".", text))
    text = remove_symbols_and_diacritics(text, keep=".'%$¢€£")
    text = WHISPER.standardize_spellings(WHISPER.standardize_numbers(text))
    text = re.sub(r"\.(?!\d)", " ", text)
    text = re.sub(r"[.$¢€£]([^0-9])", r" \1", text)  # a sign that stands before no number
    return re.sub(r"([^0-9])%", r"\1 ", text)
