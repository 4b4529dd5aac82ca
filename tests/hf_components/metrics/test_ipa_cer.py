"""The IPA error rate: its spelling rule by rule, its count against jiwer, and that `evaluate` loads it by path."""

import random

import evaluate
import jiwer
import pytest
from paths import ROOT

from hf_components.metrics.ipa_cer.ipa import ACCEPTED, normalize_ipa, unknown_symbols

pytestmark = pytest.mark.unit

FOLDER = ROOT / "hf_components" / "metrics" / "ipa_cer"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ˈkæt ˌbɛd", "kæt bɛd"),
        ("t͡ʃɪn d͜ʒʌŋk", "ʧɪn ʤʌŋk"),
        ("tʃ dʒ t ʃ", "ʧ ʤ t ʃ"),
        ("bɝd bɚd", "bɚd bɚd"),
        ("ẽ ĩ õ ũ ã", "e i o u ã"),
        ("e\u0303 ɛ\u0303 a\u0303", "e ɛ ã"),  # composed first: ã has no rule
        ("c\u0327a", "ça"),
        ("  a\t\nb\u00a0c\u3000d ", "a b c d"),
        ("(k.æ,t)!~^`_|{}", "kæt"),
        ("t'ʃ", "ʧ"),  # punctuation goes before affricates are joined
        ("tˈʃ", "ʧ"),
        ("siː", "siː"),
        ("", ""),
    ],
)
def test_one_spelling(written, expected):
    assert normalize_ipa(written) == expected == normalize_ipa(expected)


def test_symbols_that_a_submission_may_not_have():
    assert unknown_symbols("ˈkæt͡ʃ, siː") == []
    assert unknown_symbols("ɡaʲ kæt") == ["a", "ɡ", "ʲ"]
    assert len(ACCEPTED) == 52


def test_equals_jiwer_after_the_spelling():
    random.seed(0)
    symbols = [*sorted(ACCEPTED), "ˈ", "͡", "\u0303", ".", "ɝ", "tʃ", "a", "\t"]
    strings = [["".join(random.choices(symbols, k=random.randint(1, 30))) + "k" for _ in range(200)] for _ in "ab"]
    metric = evaluate.load(str(FOLDER))
    found = metric.compute(predictions=strings[0], references=strings[1])
    said, heard = ([normalize_ipa(text) for text in side] for side in (strings[1], strings[0]))
    assert found["ipa_cer"] == pytest.approx(jiwer.cer(said, heard), abs=1e-12)
    errors = found["substitutions"] + found["deletions"] + found["insertions"]
    assert found["ipa_cer"] == pytest.approx(errors / found["reference_symbols"])
    assert found["utterances"] == 200 and "a" in found["unknown_symbols"]
    assert not ACCEPTED & set(found["unknown_symbols"])


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="no reference has a symbol"):
        evaluate.load(str(FOLDER)).compute(predictions=["k"], references=["ˈ."])
