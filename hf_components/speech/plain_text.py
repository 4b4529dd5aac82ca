"""Plain text from transcripts: what word processors, web pages and other recognisers leave in them is taken out."""

import html
import re
import unicodedata

ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
MARK = re.compile(r"<\|[^<>|\s]*\|>")  # special tokens of recognisers, such as <|endoftext|>: nobody says them
# Tags of web pages and subtitles; those of the first group end a word.
TAG = re.compile(r"<(?:(/?(?:br|p))|/?(?:b|i|u|em|strong|font|span|sub|sup|c|v))(?:[ .][^<>]*)?\s*/?>", re.IGNORECASE)
MOJIBAKE = {"\u00e2\u20ac\u2122": "\u2019", "\u00e2\u20ac\u02dc": "\u2018"}  # UTF-8 that was read as Windows-1252
QUOTATION = re.compile(r"(?<!\w)\u2018((?:[^\u2018\u2019]|(?<=\w)\u2019(?=\w))*)\u2019(?!\w)")
APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\uff07", "'"))
# These are quotation marks, primes or accents, unless there are letters on both sides.
APOSTROPHE_IN_WORD = re.compile(r"(?<=[^\W_])[\u2018\u201b\u2032\u02b9\u00b4`](?=[^\W\d_])")
JOINERS = "\u200c\u200d"  # part of the spelling in Arabic and Indic scripts
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # fillers of Hangul, and the empty pattern of Braille
SELECTORS = "\u034f\ufe0e\ufe0f"  # choose between glyphs


def plain_text(text: str) -> str:
    """The text as somebody would type it, with single spaces.

    HTML entities become their characters, decomposed letters are composed (NFC), typographic apostrophes become `'`
    and what they quote is put between `"`. Invisible and control characters are removed, and so are special tokens
    such as `<|endoftext|>`, and tags of web pages and subtitles such as `<i>`. Text without any of these is returned
    as it is, apart from white space.
    """
    while (decoded := ENTITY.sub(lambda found: html.unescape(found[0]), text)) != text:
        text = decoded  # a text may have been escaped twice
    if "<" in text:
        text = TAG.sub(lambda tag: " " if tag[1] else "", MARK.sub(" ", text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        for wrong, right in MOJIBAKE.items():
            text = text.replace(wrong, right)
        text = QUOTATION.sub(r'"\1"', _without_invisible(text)).translate(APOSTROPHES)
    elif not text.isprintable():
        text = _without_invisible(text)
    return " ".join(APOSTROPHE_IN_WORD.sub("'", text).split())


def has_words(text: str) -> bool:
    """Whether the text holds a letter or a digit."""
    return any(character.isalnum() for character in text)


def _without_invisible(text: str) -> str:
    kept: list[str] = []
    for character in text:
        if character.isspace() or character in BLANK_LETTERS:
            kept.append(" ")
        elif character in JOINERS:
            if kept and kept[-1].isprintable() and kept[-1].upper() == kept[-1].lower() and kept[-1] != " ":
                kept.append(character)  # scripts that use them have no upper case
        elif character not in SELECTORS and unicodedata.category(character) not in ("Cc", "Cf"):
            kept.append(character)
    return "".join(kept)
