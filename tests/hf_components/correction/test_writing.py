"""The writing of a recogniser."""

import json

import pytest
from tiny_llm import save_tiny_llm
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer

from hf_components.correction.writing import alphabet_of, in_writing

pytestmark = pytest.mark.unit


def test_alphabet_of_letters_has_the_space_and_no_delimiter(tmp_path):
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABC'"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    assert alphabet_of(Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))) == frozenset("ABC' ")


def test_pieces_spell_anything(tmp_path):
    assert alphabet_of(AutoTokenizer.from_pretrained(save_tiny_llm(tmp_path))) is None


@pytest.mark.parametrize(
    ("text", "heard", "written"),
    [
        ("Well-known, isn\u2019t it?", "well known is it", "well known isn't it"),
        ("Well-known, isn\u2019t it?", "Well known, is it", "Well-known, isn't it?"),
        ("  a \t b ", "A B", "A B"),
        ("Anna called.", "anna called", "anna called"),
        ("Anna called", "Anna call", "Anna called"),
    ],
)
def test_case_and_punctuation_follow_what_was_heard(text, heard, written):
    assert in_writing(text, heard) == written
