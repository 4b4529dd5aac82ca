"""The vote of several recognisers, what it weighs, and what is expected of it without truth."""

import json

import numpy as np
import pytest

from hf_components.asr import Heard, Word
from hf_components.correction.finetuning.consensus import combine
from hf_components.correction.finetuning.expectation import estimated_wer, expected_errors, where_unsure
from hf_components.correction.finetuning.gold import Gold, write_gold
from hf_components.scoring import score, vote


def told(text: str, confidences: list[float] | None = None) -> Heard:
    words = text.split()
    return Heard(text, None if confidences is None else [Word(*pair) for pair in zip(words, confidences, strict=True)])


def recognisers(*rates: float, seed: int = 0, sure: float = 0.0) -> tuple[list[str], list[list[Heard]]]:
    """Sentences, and what recognisers of these error rates hear; with `sure` they are so much surer if they are right.

    Each leaves out one word in thirty, too.
    """
    random = np.random.default_rng(seed)

    def any_word() -> str:
        return "".join(random.choice(list("bdgklmnprstv")) + random.choice(list("aeiou")) for _ in range(3))

    truth = [[any_word() for _ in range(8)] for _ in range(200)]

    def hear(rate: float, words: list[str]) -> Heard:
        right = random.random(len(words)) > rate
        kept = random.random(len(words)) > 1 / 30
        written = [w if r else any_word() for w, r in zip(words, right, strict=True)]
        confidences = np.clip(0.5 + sure * (right - 0.5) + 0.1 * random.standard_normal(len(words)), 0.01, 0.99)
        pairs = [pair for pair, keep in zip(zip(written, confidences, strict=True), kept, strict=True) if keep]
        return told(" ".join(word for word, _ in pairs), [float(c) for _, c in pairs] if sure else None)

    return [" ".join(words) for words in truth], [[hear(rate, words) for rate in rates] for words in truth]


def wer(texts: list[str], truth: list[str]) -> float:
    return score(texts, truth, num_bootstrap=0)["wer"]


@pytest.mark.parametrize("rates", [(0.2, 0.25, 0.3), (0.1, 0.5, 0.6), (0.1, 0.1, 1.0), (0.05, 0.1, 0.15, 0.2)])
def test_the_expected_wer_is_near_the_real_one(rates):
    truth, heard = recognisers(*rates)
    found = combine(heard)
    expected = estimated_wer(found.errors, found.texts)
    assert abs(expected - wer(found.texts, truth)) < 0.06
    real = [1 - rate for rate in rates]
    assert np.allclose(found.accuracy, real, atol=0.08), (found.accuracy, real)


def test_a_good_recogniser_outvotes_two_poor_ones():
    truth, heard = recognisers(0.1, 0.6, 0.7)
    plain = [vote([one.text for one in texts]) for texts in heard]
    assert wer(combine(heard).texts, truth) < wer(plain, truth) - 0.01


def test_confidences_tell_two_recognisers_apart():
    truth, heard = recognisers(0.3, 0.3, sure=0.6)
    blind = [[Heard(one.text) for one in texts] for texts in heard]
    assert wer(combine(heard).texts, truth) < wer(combine(blind).texts, truth) - 0.05


def test_who_hears_nothing_has_no_say():
    truth, heard = recognisers(0.1, 0.2)
    silent = [[*texts, Heard("")] for texts in heard]
    assert wer(combine(silent).texts, truth) <= wer([texts[1].text for texts in heard], truth)
    assert combine([[Heard(""), Heard("")]]).texts == [""] and estimated_wer([0.0], [""]) is None


def test_copies_of_a_recogniser_have_one_vote():
    _, heard = recognisers(0.2, 0.3)
    nonsense = [Heard(f"the committee reports number {i}") for i in range(len(heard))]
    copied = [[*texts, one, one] for texts, one in zip(heard, nonsense, strict=True)]
    found, expected = combine(copied), combine([texts[:3] for texts in copied])
    assert found.texts == expected.texts and found.accuracy == [*expected.accuracy, expected.accuracy[2]]
    assert combine([[one, one] for one in nonsense]).accuracy[0] < 0.2


def test_every_word_of_every_recogniser_has_a_probability():
    truth, heard = recognisers(0.1, 0.5, 0.2, sure=0.5)
    heard.append([told("Well - yes", [0.9, 0.5, 0.8]), told("well", [0.3]), told("")])
    found = combine(heard)
    for i, texts in enumerate(heard):
        assert len(found.confidences(i)) == len(found.texts[i].split())
        assert [len(own) for own in found.own[i]] == [len(one.text.split()) for one in texts]
    good, poor = (np.mean([np.mean(own[who]) for own in found.own[:-1]]) for who in range(2))
    assert good > poor + 0.15
    copied = combine([[*texts, texts[1]] for texts in heard])
    assert copied.own[0][3] == copied.own[0][1] == found.own[0][1]


def test_two_count_as_equally_good():
    truth, heard = recognisers(0.2, 0.5, sure=0.6)
    found = combine(heard)
    assert abs(found.accuracy[0] - found.accuracy[1]) < 0.15  # nobody else tells who is the better one
    assert wer(found.texts, truth) < wer([texts[1].text for texts in heard], truth) - 0.1


def test_what_is_not_scored_stays_with_its_word():
    found = combine([[told("Well - yes, I know.", [0.9] * 5), told("well yes i know"), told("well yes i no")]])
    assert found.texts == ["Well - yes, I know."]


def test_an_llm_changes_only_what_nobody_is_sure_of():
    truth, heard = recognisers(0.05, 0.1, 0.1)
    heard.append([told("a cat sat"), told("a cat mat"), told("a cat rat")])
    places = combine(heard).places[-1]
    assert 1 - places[1].wrong > 0.9 > 0.8 > 1 - places[2].wrong
    cases = {"a dog sat": "a cat sat", "a cat spat": "a cat spat", "a cat": "a cat", "oh a cat bat": "a cat bat"}
    for text, expected in cases.items():
        assert where_unsure(places, text, 0.8) == expected
    errors = {text: expected_errors(places, text) for text in ("a cat sat", "a dog sat", "a cat sat now", "a cat hat")}
    assert errors["a cat sat"] == pytest.approx(combine(heard).errors[-1])
    assert errors["a dog sat"] > errors["a cat sat"] + 0.5 and errors["a cat sat now"] == errors["a cat sat"] + 1


def test_gold_is_written_beside_what_was_heard(tmp_path):
    _, heard = recognisers(0.2, 0.2, 0.2)
    found = combine(heard)
    ids = [str(i) for i in range(len(heard))]
    gold = Gold(found.texts, ["consensus"] * len(ids), None, found, found.errors)
    write_gold(tmp_path / "gold.jsonl", ids, ["a", "b", "c"], heard, gold)
    row = json.loads((tmp_path / "gold.jsonl").read_text().splitlines()[0])
    assert row["heard"]["b"] == heard[0][1].text and row["gold"] == found.texts[0]
    assert " ".join(word for word, _ in row["consensus"]) == row["gold"]
    assert all(0 < right <= 1 for _, right in row["consensus"]) and 0 <= row["estimated_wer"] <= 1
