"""The writing (case, punctuation, characters) of a recogniser, to which an LLM's proposals are converted."""

import re
import unicodedata

from transformers import PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

CURLY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'"})


def alphabet_of(tokenizer: PreTrainedTokenizerBase) -> frozenset[str] | None:
    """The characters that a recogniser can write, including the space; None if its vocabulary can spell any text."""
    if not isinstance(tokenizer, Wav2Vec2CTCTokenizer):
        return None
    letters = {token for token in tokenizer.get_vocab() if len(token) == 1}
    return frozenset(letters - {tokenizer.word_delimiter_token} | {" "})


def in_writing(text: str, heard: str, alphabet: frozenset[str] | None = None) -> str:
    """`text` in the case of `heard` and without punctuation that the recogniser does not write.

    The result has composed characters (NFC), straight apostrophes and single spaces.

    Args:
        text: text of one line.
        heard: text of the recogniser; its case is used if it is all upper or all lower.
        alphabet: characters that the recogniser can write. With None, punctuation stays if `heard` has some; an
            apostrophe is not punctuation.
    """
    text = unicodedata.normalize("NFC", text).translate(CURLY)
    if heard.isupper():
        text = text.upper()
    elif heard.islower():
        text = text.lower()
    if alphabet is not None:
        kept = alphabet
    elif any(_is_punctuation(c) for c in heard.replace("'", "")):
        kept = set(text)
    else:
        kept = {"'"}
    text = re.sub(r"[-\u2010-\u2015/]", lambda mark: mark[0] if mark[0] in kept else " ", text)  # between words
    return " ".join("".join(c for c in text if c in kept or not _is_punctuation(c)).split())


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")
