"""Codes of languages: one place decides which language a word such as `EN`, `en-US` or `english` means."""

import re
from typing import Any

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from hf_components.runtime import UserError, flag

# ISO 639-1, and two codes of Whisper and of Serbo-Croatian corpora.
TWO_LETTERS = frozenset(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el
    en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu
    ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na
    nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so
    sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu jw
    sh
    """.split()  # noqa: SIM905
)
THREE_LETTERS = {"eng": "en", "tur": "tr", "aze": "az", "azj": "az"}  # those whose texts are scored in their own way
WITHDRAWN = {"iw": "he", "in": "id", "ji": "yi"}  # codes of before 1989, which some corpora still have
CODE = re.compile(r"(?P<language>[a-z]{2,3})(?:[-_](?P<script>[a-z]{4}))?(?:[-_](?:[a-z]{2}|\d{3}))?(?:\..*)?")


def language_code(language: str) -> str:
    """The code of a language: `en` for `EN`, `en-US`, `english` and `<|en|>`.

    A code of three letters (ISO 639-3) is not looked up, since there are thousands; it keeps its script, such as
    `cmn_Hant`. Regions are left out.

    Raises:
        UserError: it is no code and no name that Whisper knows.
    """
    word = language.strip().strip("<|>").lower()
    if word in TO_LANGUAGE_CODE:
        return TO_LANGUAGE_CODE[word]
    if found := CODE.fullmatch(word):
        code = {**THREE_LETTERS, **WITHDRAWN}.get(found["language"], found["language"])
        if code in TWO_LETTERS:
            return code
        if len(code) == 3:
            return code if found["script"] is None else f"{code}_{found['script'].title()}"
    raise UserError(
        f"a language must be a code such as en, de or haw, or a name such as english, got {language!r}; codes are "
        "listed at https://en.wikipedia.org/wiki/List_of_ISO_639_language_codes"
    )


def language_flag() -> Any:
    """The flag `language` of a recipe that runs a recogniser."""
    return flag(
        "language code of a multilingual model; default: the one saved with it", default=None, read=language_code
    )
