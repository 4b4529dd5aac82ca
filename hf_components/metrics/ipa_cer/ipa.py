"""The spelling of IPA that the challenge compares, and the symbols that it accepts.

The rules are those of `metric/score.py` in github.com/drivendataorg/childrens-speech-recognition-runtime.
"""

import string
import unicodedata

ACCEPTED = frozenset(
    " bcdfghjklmnprstvwxz"  # consonants that are letters of ASCII
    "eiou"  # and vowels
    "\u0251\u00e6\u0250\u0254\u0259\u025a\u025b\u026a\u028a\u028c"  # ɑ æ ɐ ɔ ə ɚ ɛ ɪ ʊ ʌ
    "\u00e7\u00f0\u014b\u025f\u026b\u026c\u0279\u027e"  # ç ð ŋ ɟ ɫ ɬ ɹ ɾ
    "\u0281\u0283\u0292\u0294\u029d\u03b8\u03c7"  # ʁ ʃ ʒ ʔ ʝ θ χ
    "\u02a7\u02a4"  # ʧ ʤ
    "\u02d0"  # ː
)
TIES_STRESS_TILDE = "\u035c\u0361\u02c8\u02cc\u0303"
NASAL_VOWELS = {"\u1ebd": "e", "\u0129": "i", "\u00f5": "o", "\u0169": "u"}  # as composed letters; others keep theirs
RHOTIC = {"\u025d": "\u025a"}  # ɝ is written ɚ
AFFRICATES = {"t\u0283": "\u02a7", "d\u0292": "\u02a4"}
WRITTEN = str.maketrans({**dict.fromkeys(TIES_STRESS_TILDE + string.punctuation, ""), **NASAL_VOWELS, **RHOTIC})


def normalize_ipa(text: str) -> str:
    """One spelling of IPA: no ties, stress, nasality, punctuation; affricates as one symbol; single spaces."""
    text = unicodedata.normalize("NFC", text).translate(WRITTEN)
    for two, one in AFFRICATES.items():
        text = text.replace(two, one)
    return " ".join(text.split())


def unknown_symbols(text: str) -> list[str]:
    """Symbols of a string that the challenge does not accept, sorted; a submission with any of them is refused."""
    return sorted(set(normalize_ipa(text)) - ACCEPTED)
