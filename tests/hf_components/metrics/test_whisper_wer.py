"""The WER metric against jiwer and both published normalisers, by path through `evaluate`, and its statistics."""

import importlib.util
import json
import random
import shutil
import sys
import types
from pathlib import Path

import evaluate
import jiwer
import numpy as np
import pytest
from paths import ROOT
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer as TransformersNormalizer
from whisper import normalizers as openai_normalizers

from hf_components.metrics.whisper_wer.bootstrap import interval, intervals, paired_bootstrap
from hf_components.metrics.whisper_wer.counting import normalize, utterance_errors
from hf_components.metrics.whisper_wer.whisper_wer import WhisperWer
from hf_components.scoring import references_of_manifest
from hf_components.scoring.error_rates import compare, score

pytestmark = pytest.mark.unit

FOLDER = ROOT / "hf_components" / "metrics" / "whisper_wer"
SPELLING = json.loads((Path(openai_normalizers.__file__).parent / "english.json").read_text())
TRICKY_WORDS = (
    "one two twenty oh zero hundred million half and a point double triple $5 5% 3,000 1960s 3rd £3.50 ¢ "
    "cents pound . , um uh hmm Mr Dr. St. I'm won't can't y'all colour grey [noise] (laughs) <unk> é ½ 1.2.3 4. "
    ".5 -3 per cent o'clock ' ’ \" 日本 ß house tree water people"
)
TRICKY = TRICKY_WORDS.split()
REAL = [
    (
        "Mr. Quilter is the apostle of the middle classes, and we're glad to welcome his gospel.",
        "mister quilter is the apostle of the middle classes and we are glad to welcome his gospel",
    ),
    ("um I'd like, uh, twenty-one colour photos for $3.50", "I would like 21 color photos for three dollars fifty"),
    ("She'll be in Aunt Bertha's kitchen", "she will be in and Bertha kitchen kitchen kitchen"),
    ("Set the alarm for seven thirty a.m.", "set the alarm for 7.30 am"),
]
# Contractions, numbers, money, fillers, nothing left, other scripts, digits glued to letters, apostrophes, invisible
# characters, titles, brackets, spelling.
HARD = [
    "I'm won't can't y'all gonna wanna gimme I'd've ain't let's ma'am o'clock 'twas",
    "she's been he'd come he'd got",
    "can ’ t don ’t we`re we´re",
    "twenty-one 2nd 3rd 1,000,000 one hundred and one two oh one zero one point five",
    "double oh seven triple five five hundred thousand million and a half",
    "nineteen ninety nine the 60s 1960s",
    "$3.50 £2 €1.99 20¢ five dollars and ten cents ¥500 3 dollars 50",
    "5% fifty percent per cent 50 percents",
    "um uh hmm mhm mm huh umm er",
    "um",
    "...",
    "[noise]",
    "(laughs)",
    "<unk>",
    "",
    "   ",
    "日本語 テスト",
    "привет мир",
    "مرحبا",
    "ñandú façade naïve Łódź Straße",
    "3cats cat3 a1b2 12th12 one1",
    "rock ’n’ roll 'cause o'neill the boys' dogs'",
    "\ufeffhello wor\u200bld \u00a0x\u2028y",
    "Mr. Mrs. Dr. St. Prof. Capt. Sen. Rep. Rev. Hon. Lt. Col. Jr. Sr. Esq.",
    "he said [inaudible] and (coughs) then {x} <b>bold</b>",
    "unclosed [bracket here",
    "e-mail A.B.C. U.S.A. 7.30 a.m. 3:45",
    "½ ⅓ x² ①",
    "+5 -3 1/2 #1 @home & so",
    "grey colour favourite centre theatre",
    "ok okay O.K. THE QUICK",
    "one two three four five",
    "five nine five three",
    "a  b\tc\nd",
]


def random_text(rng: random.Random, longest: int = 9) -> str:
    return " ".join(rng.choice(TRICKY) for _ in range(rng.randint(0, longest)))


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    """References and predictions: realistic ones, and random ones in which one word of three is replaced."""
    rng = random.Random(0)
    references = [reference for reference, _ in REAL] + [random_text(rng) for _ in range(400)]
    predictions = [prediction for _, prediction in REAL] + [
        " ".join(rng.choice(TRICKY) if rng.random() < 0.3 else word for word in reference.split())
        + " "
        + random_text(rng, 2)
        for reference in references[len(REAL) :]
    ]
    return references, predictions


@pytest.fixture(
    params=[openai_normalizers.EnglishTextNormalizer(), TransformersNormalizer(SPELLING)],
    ids=["openai-whisper", "transformers"],
)
def normalizer(request):
    return request.param


def test_equals_jiwer_after_the_reference_normalizers(texts, normalizer):
    check_equality(*texts, normalizer)


def test_equals_jiwer_on_a_page_of_hard_cases(normalizer):
    assert [normalize(text) for text in HARD] == [" ".join(normalizer(text).split()) for text in HARD]
    for shift in range(len(HARD)):  # every one heard as every other
        check_equality(HARD, HARD[shift:] + HARD[:shift], normalizer, least=0)


def test_equals_jiwer_on_a_whole_corpus_of_children(corpora, normalizer):
    manifest = corpora / "children" / "train_word_transcripts.jsonl"
    if not manifest.is_file():
        pytest.skip(f"the children's corpus is not at {manifest}")
    references = references_of_manifest(manifest).texts
    rng, words = random.Random(0), [word for text in references for word in text.split()]
    predictions = [
        " ".join(
            rng.choice([word, word, word, word.upper() + ".", rng.choice(words), "", rng.choice(TRICKY)])
            for word in text.split()
        )
        for text in references
    ]
    assert len(references) > 500
    check_equality(references, predictions, normalizer)


def check_equality(references: list[str], predictions: list[str], normalizer, least: float = 0.1) -> None:
    clean_references, clean_predictions = [normalizer(t) for t in references], [normalizer(t) for t in predictions]
    words = jiwer.process_words(clean_references, clean_predictions)
    result = score(predictions, references, num_bootstrap=0)
    assert words.wer >= least
    assert result["wer"] == words.wer
    assert result["cer"] == jiwer.cer(clean_references, clean_predictions)
    assert {key: result[key] for key in ("substitutions", "deletions", "insertions", "hits")} == {
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "hits": words.hits,
    }


def test_each_utterance_equals_jiwer(texts):
    references, predictions = texts
    normalizer = openai_normalizers.EnglishTextNormalizer()
    counts = utterance_errors(predictions, references)
    for index, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        expected = jiwer.process_words(normalizer(reference), normalizer(prediction))
        assert counts["errors"][index] == expected.substitutions + expected.deletions + expected.insertions
        assert counts["reference_words"][index] == expected.hits + expected.substitutions + expected.deletions


def test_loads_by_path_from_a_copy_without_our_package(tmp_path, monkeypatch):
    copy = shutil.copytree(FOLDER, tmp_path / "whisper_wer", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "hf_components"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hf_components", None)  # importing it now fails
    metric = evaluate.load(str(copy), keep_in_memory=True)
    result = metric.compute(predictions=["Mr. Brown won't go."], references=["mister brown will not come"])
    assert result["wer"] == 0.2
    assert result == json.loads(json.dumps(result))


def test_adds_up_batches():
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    metric.add(prediction="a b", reference="a c")
    metric.add_batch(predictions=["d", "e f"], references=["d", ["x", "e f"]])
    assert metric.compute(groups=["g", "g", "h"])["wer"] == 1 / 5


def test_labels_may_come_with_each_batch():
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    for _ in range(2):  # nothing is left from the first time
        metric.add(prediction="a b", reference="a c", group="g", speaker="s")
        metric.add_batch(predictions=["d", "e f"], references=["d", "x"], groups=["g", "h"], speakers=["s", "t"])
        found = metric.compute(num_bootstrap=20)
        texts = {"predictions": ["a b", "d", "e f"], "references": ["a c", "d", "x"]}
        labels = {"groups": ["g", "g", "h"], "speakers": ["s", "s", "t"]}
        assert found == metric.compute(**texts, **labels, num_bootstrap=20)
    with pytest.raises(ValueError, match="groups must give one label per utterance, got 1 for 2"):
        metric.add_batch(predictions=["d", "e"], references=["d", "x"], groups=["g"])
    metric.add_batch(predictions=["d"], references=["d"], groups=["g"])
    metric.add_batch(predictions=["d"], references=["d"])
    with pytest.raises(ValueError, match="groups must be given with every added utterance or with none"):
        metric.compute()


@pytest.mark.parametrize("impostor", [None, types.ModuleType("whisper")], ids=["absent", "another package"])
def test_tells_which_whisper_to_install(monkeypatch, impostor):
    for name in [name for name in sys.modules if name.split(".")[0] == "whisper"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "whisper", impostor)
    spec = importlib.util.spec_from_file_location("counting_without_whisper", FOLDER / "counting.py")
    with pytest.raises(ImportError, match="pip install openai-whisper"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_reference_with_fewest_errors_counts():
    counts = utterance_errors(["i want tea", "go", ""], [["i i want", "I want tea"], ["stop", "go go"], ["a b", "c"]])
    assert counts["errors"].tolist() == [0, 1, 1]
    assert counts["reference_words"].tolist() == [3, 2, 1]  # of equal errors ("stop", "go go") the longer reference


def test_one_and_several_references_may_be_mixed():
    assert score(["a", "c"], ["a", ["b", "c"]])["wer"] == 0


@pytest.mark.parametrize(("prediction", "wer"), [("", 0), ("um", 0), ("hello there", 2)])
def test_reference_that_is_empty_after_normalisation(prediction, wer):
    result = score([prediction], ["um"])
    assert (result["wer"], result["reference_words"], result["wer_clipped"]) == (wer, 0, 0)
    assert score([prediction, "yes it is"], ["um", "yes it is"])["wer"] == wer / 3


def test_clipping_limits_an_utterance_to_its_own_length():
    result = score(["no " * 50, "yes"], ["yes please", "yes"])
    assert result["wer"] == 50 / 3
    assert result["wer_clipped"] == 2 / 3
    assert result["cer_clipped"] == 10 / 13


def test_groups_speakers_and_macro_average():
    result = score(
        ["a b c d", "x", "x y", "a"],
        ["a b c d", "a", "x y", "b"],
        groups=["g", "g", "h", "h"],
        speakers=["1", "2", "3", "3"],
    )
    assert result["wer"] == 2 / 8
    assert result["wer_speaker_mean"] == pytest.approx((0 + 1 + 1 / 3) / 3)
    assert (result["utterances"], result["speakers"]) == (4, 3)
    assert {group: (r["wer"], r["utterances"], r["speakers"]) for group, r in result["per_group"].items()} == {
        "g": (1 / 5, 2, 2),
        "h": (1 / 3, 2, 1),
    }
    assert result["per_group"]["h"]["wer_interval"] is None  # one speaker says nothing about others


def test_normalizer_none_leaves_text_alone():
    assert score(["um Colour"], ["colour"])["wer"] == 0
    metric = WhisperWer(keep_in_memory=True)
    assert metric.compute(predictions=["um Colour"], references=["colour"], normalizer="none")["wer"] == 2


def test_other_languages_keep_their_letters_and_marks():
    assert normalize("Schön, um 8 Uhr!", "unicode") == "schön um 8 uhr"
    assert normalize("¿Qué? (sí)", "unicode") == "qué sí" and normalize("¿Qué? (sí)", "basic") == "qué"
    hindi = "क्या हाल है?"
    assert normalize(hindi, "unicode") == "क्या हाल है"
    assert (
        normalize(hindi, "basic") == " ".join(openai_normalizers.BasicTextNormalizer()(hindi).split()) != "क्या हाल है"
    )
    assert normalize("Ａ ﬁ", "unicode") == "a fi"


def test_the_language_says_how_texts_are_normalised():
    said, written = ["Das ist schön, um acht."], ["das ist schon acht"]
    german, english = score(written, said, language="de"), score(written, said, language="en")
    assert (german["wer"], german["normalizer"]) == (2 / 5, "unicode")
    assert (english["wer"], english["normalizer"]) == (score(written, said)["wer"], "english") == (0, "english")
    assert compare(said, written, said, language="de")["difference"] == 2 / 5
    assert compare(said, written, said)["difference"] == 0


def test_interval_matches_a_plain_loop_and_is_seeded():
    rng = np.random.default_rng(1)
    words = rng.integers(1, 12, size=60)
    errors = rng.binomial(words, 0.3)
    speakers = [f"s{i % 12}" for i in range(60)]
    got = interval(errors, words, speakers, num_bootstrap=4000, seed=3)
    rows = {speaker: [i for i in range(60) if speakers[i] == speaker] for speaker in set(speakers)}
    draw = random.Random(0)
    rates = []
    for _ in range(4000):
        chosen = [row for _ in rows for row in rows[draw.choice(sorted(rows))]]
        rates.append(errors[chosen].sum() / words[chosen].sum())
    np.testing.assert_allclose(got, np.quantile(rates, [0.025, 0.975]), atol=0.006)
    assert got == interval(errors, words, speakers, num_bootstrap=4000, seed=3)
    assert got != interval(errors, words, speakers, num_bootstrap=4000, seed=4)


def test_intervals_of_several_rates_are_those_of_each_alone():
    rng = np.random.default_rng(2)
    words, letters = rng.integers(1, 9, size=50), rng.integers(5, 40, size=50)
    rates = {"wer": (rng.binomial(words, 0.3), words), "cer": (rng.binomial(letters, 0.1), letters)}
    speakers = [f"s{i % 7}" for i in range(50)]
    together = intervals(rates, speakers, seed=5)
    assert together == {name: interval(*rate, speakers, seed=5) for name, rate in rates.items()}


def test_every_rate_has_its_interval():
    result = score(["a b b b b", "d", "x y"], ["a b", "d e", "x y"], speakers=["1", "2", "3"])
    for rate in ("wer", "cer", "wer_clipped", "cer_clipped"):
        low, high = result[f"{rate}_interval"]
        assert low <= result[rate] <= high
    assert result["wer_clipped_interval"] != result["wer_interval"]


def test_interval_over_speakers_is_wider_when_speakers_differ():
    errors, words = np.repeat([0, 5, 0, 5, 1, 5], 50), np.full(300, 10)
    by_speaker = interval(errors, words, np.repeat(list("abcdef"), 50))
    by_utterance = interval(errors, words)
    assert by_speaker[1] - by_speaker[0] > 3 * (by_utterance[1] - by_utterance[0])


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    words, hits = np.full(100, 10), 0
    for trial in range(200):
        low, high = interval(rng.binomial(words, 0.2), words, num_bootstrap=300, seed=trial)
        hits += low <= 0.2 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_paired_comparison_sees_a_small_constant_gain():
    rng = np.random.default_rng(0)
    words = np.full(400, 10)
    hard = rng.binomial(words, np.repeat(rng.uniform(0, 0.8, 40), 10))
    better = np.maximum(hard - (rng.random(400) < 0.2), 0)
    speakers = [f"s{i // 10}" for i in range(400)]
    result = paired_bootstrap(
        {"errors": hard, "reference_words": words}, {"errors": better, "reference_words": words}, speakers
    )
    assert result["difference"] == pytest.approx((better.sum() - hard.sum()) / words.sum())
    assert result["interval"][0] <= result["difference"] <= result["interval"][1] < 0
    assert (result["utterances"], result["units"]) == (400, 40)
    alone = interval(hard, words, speakers)
    assert result["interval"][1] - result["interval"][0] < 0.2 * (alone[1] - alone[0])


def test_compare_scores_two_systems():
    result = compare(["a x", "c"], ["a b", "c"], ["a b", "c"], speakers=["1", "2"])
    assert (result["wer_a"], result["wer_b"], result["difference"]) == (1 / 3, 0, -1 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": ["a"], "references": ["a", "b"]}, r"predictions \(1\) and references \(2\)"),
        ({"predictions": [], "references": []}, "no utterances"),
        ({"predictions": ["a", None], "references": ["a", "b"]}, r"predictions\[1\] must be a string, got None"),
        ({"predictions": ["a", "b"], "references": ["a", []]}, r"references\[1\] must be a string or a list"),
        (
            {"predictions": ["a"], "references": ["a"], "groups": ["x", "y"]},
            "groups must give one label per utterance",
        ),
        ({"predictions": ["a"], "references": ["a"], "speakers": [None]}, r"speakers\[0\] must be a string, got None"),
        ({"predictions": ["a"], "references": ["a"], "confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"predictions": ["a"], "references": ["a"], "num_bootstrap": -1}, "num_bootstrap must be 0 or more, got -1"),
        (
            {"predictions": ["a"], "references": ["a"], "normalizer": "german"},
            "normalizer must be one of english, basic, unicode, turkic, none, got 'german'",
        ),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WhisperWer(keep_in_memory=True).compute(**arguments)


@pytest.mark.parametrize(
    ("typed", "other"),
    [
        ("п\u02bcять", "п'ять"),
        ("п\u2019ять", "п'ять"),
        ("Hawai\u02bbi", "Hawai\u2018i"),
        ("peut\u2011être", "peut-être"),
        ("so\u00adfort", "sofort"),
        ("\u200fשלום\u200e", "שלום"),
        ("\ufeffja\u200b", "ja"),
    ],
)
def test_letters_that_are_typed_in_several_ways(typed, other):
    assert normalize(typed, "unicode") == normalize(other, "unicode")
    assert normalize("می\u200cخواهم", "unicode") == "می\u200cخواهم"  # a joiner is spelling


@pytest.mark.parametrize(
    "normalizer, text, expected",
    [
        (
            "turkic",
            "I\u015eIK \u0130zmir I\u0307zmir, Diyarbak\u0131r!",
            "\u0131\u015f\u0131k izmir izmir diyarbak\u0131r",
        ),
        ("unicode", "\u0130zmir I\u0307zmir IZMIR", "izmir izmir izmir"),
        ("unicode", "\u00d6l, \u00dcBER!", "\u00f6l \u00fcber"),
    ],
)
def test_dotted_and_dotless_i(normalizer, text, expected):
    assert normalize(text, normalizer) == expected
