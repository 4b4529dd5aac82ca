"""Transcripts in the letters of CTC vocabularies."""

from types import SimpleNamespace

import pytest

from hf_components.asr.ctc import writable

pytestmark = pytest.mark.unit

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TURKISH = "abcdefghijklmnoprstuvyz\u00e7\u011f\u0131\u00f6\u015f\u00fc"


def tokenizer(letters: str, special: tuple[str, ...] = ("<pad>", "<unk>")) -> SimpleNamespace:
    vocabulary = {token: number for number, token in enumerate([*special, "|", *letters])}
    return SimpleNamespace(get_vocab=lambda: vocabulary, all_special_tokens=list(special))


@pytest.mark.parametrize(
    "letters, text, written",
    [
        (LETTERS + "'\u00e4\u00f6\u00fc\u00f1", "O\u0308l u\u0308ber man\u0303ana", "\u00f6l \u00fcber ma\u00f1ana"),
        (LETTERS + "\u0301", "caf\u00e9", "cafe\u0301"),
        (LETTERS, "\ufb01n \ufb02ag \u0133s", "fin flag ijs"),
        (LETTERS.upper(), "\ufb01n", "FIN"),
        (LETTERS + "'", "a\u00adb x\u200by don\u2019t don&#39;t", "ab xy don't don't"),
        (LETTERS + "\u2019", "don't don\u2019t", "don\u2019t don\u2019t"),
        (LETTERS, "caf\u00e9 5", "caf\u00e9 5"),
        ("abcdefghijklmnopqrstuvwxyz", "c\u0153ur, \u00c6on, Stra\u00dfe", "coeur aeon strasse"),
        (LETTERS + "\u0153", "c\u0153ur", "c\u0153ur"),
        (LETTERS.upper(), "c\u0153ur stra\u00dfe", "COEUR STRASSE"),
        (LETTERS + "5", "\uff15 a\u00b5", "5 a\u00b5"),
        (LETTERS, "one|two - three", "one two three"),
        (TURKISH, "I\u015eIK \u0130zmir Diyarbak\u0131r", "\u0131\u015f\u0131k izmir diyarbak\u0131r"),
        (TURKISH.upper().replace("I", "I\u0130"), "izmir \u0131\u015f\u0131k", "\u0130ZM\u0130R I\u015eIK"),
        (TURKISH + "qwx", "I", "\u0131"),
        (LETTERS + "\u0131\u00f1\u00e4", "I am", "i am"),
        (LETTERS, "I am in \u0130zmir", "i am in izmir"),
        (LETTERS.upper(), "\u0130zmir", "IZMIR"),
        ("\u0958\u0915", "\u0915\u093c\u0915 \u0958", "\u0958\u0915 \u0958"),
        ("\u0915\u093c", "\u0958", "\u0915\u093c"),
        ("\u0645\u06cc", "\u0645\u06cc\u200c\u0645", "\u0645\u06cc\u0645"),
        ("\u0644\u0627", "\ufefb", "\u0644\u0627"),
        (LETTERS, "a<|endoftext|> b", "a b"),
        (LETTERS, "a <pad> b<unk>", "a < pad> b< unk>"),
    ],
)
def test_a_text_is_written_in_the_letters_of_the_vocabulary(letters, text, written):
    assert writable(tokenizer(letters), text) == written
