"""Error rates before and after: the counts they come from, the differences, the intervals."""

import jiwer
import pytest

from hf_components.correction.finetuning.improvement import RATES, describe, improve, is_silent, measure, summary
from hf_components.correction.finetuning.samples import Sample
from hf_components.scoring.error_rates import compare

pytestmark = pytest.mark.unit

GOLD = ["the cat sat", "on the red mat", "all day long", "and slept", "there"]
TRUTH = ["the cat sat", None, "all day wrong", None, "there"]
BEFORE = ["the bat sat", "on a red mat", "all day long", "and", "where"]
AFTER = ["the cat sat", "on the red mat", "all day wrong", "and sleep", "there"]


def samples(truth=TRUTH) -> list[Sample]:
    return [
        Sample(str(i), ("clean", "noisy")[i % 2], 1.0, BEFORE[i], GOLD[i], "corrected", truth[i], True)
        for i in range(5)
    ]


def test_rates_are_those_of_jiwer_and_their_counts():
    found = measure(samples(), BEFORE)
    assert found["wer"] == pytest.approx(jiwer.wer(GOLD, BEFORE)) and found["cer"] == pytest.approx(
        jiwer.cer(GOLD, BEFORE)
    )
    known = [i for i, truth in enumerate(TRUTH) if truth is not None]
    assert found["wer_truth"] == pytest.approx(jiwer.wer([TRUTH[i] for i in known], [BEFORE[i] for i in known]))
    assert (found["error_samples"], found["samples"], found["error_rate"]) == (4, 5, 0.8)
    for figures in (found, *found["per_condition"].values()):
        assert all(
            figures[rate] == pytest.approx(figures[errors] / figures[length])
            for rate, (errors, length) in RATES.items()
            if figures[rate] is not None
        )
    assert found["per_condition"]["noisy"]["wer_truth"] is None and found["per_condition"]["clean"]["samples"] == 3


def test_improvement_is_what_the_rates_fell_by_with_a_paired_interval():
    old, new = measure(samples(), BEFORE), measure(samples(), AFTER)
    change = improve(samples(), BEFORE, AFTER, num_bootstrap=200, seed=3)
    for part in (lambda row: row, lambda row: row["per_condition"]["clean"]):
        assert all(part(change)[rate] == pytest.approx(part(old)[rate] - part(new)[rate]) for rate in RATES)
    assert change["error_samples"] == old["error_samples"] - new["error_samples"] == 2
    paired = compare(AFTER, BEFORE, GOLD, num_bootstrap=200, seed=3)
    assert change["wer_interval"] == paired["interval"] and paired["difference"] == pytest.approx(change["wer"])
    assert (
        change["per_condition"]["noisy"]["wer_truth"] is None is change["per_condition"]["noisy"]["wer_truth_interval"]
    )


def test_text_of_the_figures():
    old, new = measure(samples(), BEFORE), measure(samples(), AFTER)
    text = describe("Baseline Metrics", old, "all 5 recordings", "stt")
    assert (
        "Baseline Metrics of all 5 recordings (gold: stt):\n  WER: 0.3077 (30.77%)" in text
        and "Error Samples: 4/5" in text
    )
    result = {
        "baseline": old,
        "finetuned": new,
        "improvement": improve(samples(), BEFORE, AFTER, num_bootstrap=50, seed=0),
        "evaluated_on": "held_out",
        "training": {"recordings": 3},
        "gold": {"source": "llm", "label": "corrections", "estimated_wer": 0.2, "wer_truth": None},
        "release": {"released": False, "reason": "nobody can tell"},
    }
    shown = summary(result)
    assert "SUMMARY: 5 held-out recordings, gold: llm" in shown and "WER (truth)" in shown
    assert "0.3077 (30.77%)    0.1538 (15.38%)    0.1538 (15.38;" in shown
    assert (
        "expected WER of the gold, by disagreement: 0.2000" in shown and "NOT SURELY BETTER: nobody can tell" in shown
    )
    trained_on = result | {"evaluated_on": "training_recordings"}
    assert "SUMMARY: 5 recordings, 3 OF THEM TRAINED ON, gold: llm" in summary(trained_on)
    without = {
        **result,
        **{name: measure(samples([None] * 5), texts) for name, texts in (("baseline", BEFORE), ("finetuned", AFTER))},
    }
    assert "truth" not in summary(without)


def test_fewer_errors_by_writing_less_are_told():
    gold = [Sample(str(i), "clean", 1.0, "", text, "manifest", text, True) for i, text in enumerate(GOLD)]
    many, few = ["to many words that are wrong"] * 5, ["a", "", "", "", ""]
    old, new = measure(gold, many), measure(gold, few)
    assert (
        new["wer"] < old["wer"]
        and new["length_ratio"] == new["written_characters"] / new["reference_characters"] < 0.1
    )
    result = {
        "baseline": old,
        "finetuned": new,
        "improvement": improve(gold, many, few, num_bootstrap=50, seed=0),
        "evaluated_on": "held_out",
        "training": {"recordings": 3},
        "gold": {"source": "manifest", "label": "known", "estimated_wer": None, "wer_truth": 0.0},
        "release": {"released": True, "reason": "it is closer"},
    }
    assert is_silent(result) and "WARNING: the fine-tuned model writes 2% of the characters of the gold" in summary(
        result
    )
    assert not is_silent(result | {"finetuned": old}) and "WARNING" not in summary(result | {"finetuned": old})
