"""Languages by code and by name, in the prompt, in the scores and as a flag."""

import dataclasses

import pytest

from hf_components.runtime import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import flag
from hf_components.scoring import score
from hf_components.scoring.error_rates import normalizer_of
from hf_components.speech.languages import language_code

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "given, code",
    [
        *(
            (name, "en")
            for name in ("en", "EN", " en ", "en-US", "en_GB.UTF-8", "english", "English", "<|en|>", "eng")
        ),
        ("pt-BR", "pt"),
        ("es-419", "es"),
        ("castilian", "es"),
        ("zh-Hant-TW", "zh"),
        ("haw", "haw"),
        ("cmn_Hant", "cmn_Hant"),
        ("ga", "ga"),
        ("iw", "he"),
        ("in-ID", "id"),
    ],
)
def test_code_of_a_language(given, code):
    assert language_code(given) == code


@pytest.mark.parametrize("given", ["xx", "englisch", "", "e", "en-", "en us", "nonsense", "12", "en,de"])
def test_no_language_is_refused_before_it_is_prompted_or_scored(given):
    with pytest.raises(UserError, match="a language must be a code such as en"):
        language_code(given)
    if given:
        with pytest.raises(UserError, match="a language must be a code"):
            score(["a"], ["a"], language=given, num_bootstrap=0)


@pytest.mark.parametrize(
    "language, normalizer",
    [
        (None, "english"),
        ("EN", "english"),
        ("en-US", "english"),
        ("German", "unicode"),
        ("TR", "turkic"),
        ("az", "turkic"),
    ],
)
def test_normaliser_of_a_language(language, normalizer):
    assert normalizer_of(language) == normalizer


def test_the_flag_takes_names_and_names_itself():
    @dataclasses.dataclass
    class Arguments:
        language: str | None = flag("language", default=None, read=language_code)

    assert parse_arguments(Arguments, ["--language=English"])[0].language == "en"
    assert parse_arguments(Arguments, [])[0].language is None
    with pytest.raises(UserError, match="--language: a language must be a code such as en, .* got 'xx'"):
        parse_arguments(Arguments, ["--language=xx"])


def test_scores_of_a_cache_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", "/dev/null/metrics")
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_CACHE", "/dev/null/evaluate")
    assert score(["a"], ["a b"], num_bootstrap=0)["wer"] == 0.5
