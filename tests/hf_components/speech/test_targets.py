"""What is learnt of a row: its words or its sounds, and where the sounds come from."""

import datasets
import pytest

from hf_components.metrics.ipa_cer.ipa import unknown_symbols
from hf_components.runtime.errors import UserError
from hf_components.speech.targets import count_from_words, to_ipa, with_target

pytestmark = pytest.mark.unit

WORDS = ["the cat", "", "a bird"]
IPA = ["\u02c8k\u00e6t", "t\u0361\u0283ip", None]


def rows(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"id": ["a", "b", "c"], "text": WORDS, **columns})


def test_ipa_takes_the_place_of_words_in_the_spelling_that_is_scored(caplog):
    found = with_target(rows(phonetic_text=IPA), "phonetic_text", None, "corpus")
    assert found["text"][:] == ["k\u00e6t", "\u02a7ip"] and count_from_words(found, "phonetic_text") == 0
    assert "1 of 3 rows have no phonetic_text and are left out: c" in caplog.text


def test_missing_ipa_is_made_from_words_and_told(caplog):
    found = with_target(rows(phonetic_text=IPA), "phonetic_text", "en-us", "corpus")
    assert found["id"][:] == ["a", "b", "c"] and found["text"][2].endswith("b\u025ad")
    assert count_from_words(found, "phonetic_text") == 1
    assert "IPA of 1 of 3 rows is made from words" in caplog.text
    assert count_from_words(with_target(rows(), "phonetic_text", "en-us", "corpus"), "phonetic_text") == 2


def test_rows_with_ipa_alone_are_not_trained_on_as_words():
    assert with_target(rows(phonetic_text=IPA), "text", None, "corpus")["id"][:] == ["a", "c"]
    assert with_target(rows(), "text", None, "corpus")["id"][:] == ["a", "b", "c"]  # to transcribe


def test_symbols_that_the_challenge_refuses_are_told(caplog):
    with_target(rows(phonetic_text=["y", "k\u00e6t", "k\u00e6t"]), "phonetic_text", None, "corpus")
    assert "refuses the symbols y" in caplog.text


def test_no_row_has_the_target():
    with pytest.raises(UserError, match="none of 3 rows has phonetic_text; --g2p en-us makes IPA"):
        with_target(rows(), "phonetic_text", None, "corpus")


def test_english_is_spelled_with_symbols_of_the_challenge():
    texts = ["John can see the sheep.", "A bottle, a button, 23 girls!", "hot fires", "", "a\0b"]
    found = to_ipa(texts, "en-us")
    assert found[0] == "\u02a4\u0251n k\u00e6n si \u00f0\u0259 \u0283ip" and found[3] == ""
    assert not [symbol for text in found for symbol in unknown_symbols(text)]
    assert to_ipa(["Wasser"], "de")[0].startswith("v")
    with pytest.raises(UserError, match="no voice 'xx-none'"):
        to_ipa(["a"], "xx-none")
