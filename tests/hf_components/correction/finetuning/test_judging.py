"""Who decides whether a trained recogniser is released."""

import numpy as np
import pytest

from hf_components.correction.finetuning.judging import judge
from hf_components.correction.finetuning.samples import Sample
from hf_components.scoring import disagreement

pytestmark = pytest.mark.unit

SAID = [f"the {color} {animal} sleeps" for color in ("red", "blue", "old", "big") for animal in ("cat", "dog", "cow")]
WRONG = [text.replace("sleeps", "sheep") for text in SAID]
WORSE = [text.replace("the", "a").replace("sleeps", "sheep") for text in SAID]
DRAWN = {"num_bootstrap": 200, "seed": 0}


def samples(finetuned: list[str], truth: list[str] | None = None) -> list[Sample]:
    truths = truth or [None] * len(SAID)
    return [
        Sample(str(i), "clean", 1.0, "", "", "llm", truths[i], True, finetuned=text)
        for i, text in enumerate(finetuned)
    ]


def test_the_truth_decides_where_it_is_known():
    better = judge(samples(SAID, SAID), WRONG, {"other": WRONG}, **DRAWN)
    assert better["released"] and better["by"] == "truth" and better["difference"] == pytest.approx(0.25)
    worse = judge(samples(WORSE, SAID), WRONG, {"other": WORSE}, **DRAWN)
    assert not worse["released"] and "25.0 points further from the truth" in worse["reason"]


def test_judges_decide_without_a_truth():
    found = judge(samples(SAID), WRONG, {"a": SAID, "b": SAID}, **DRAWN)
    assert found["released"] and (found["by"], found["judges"]) == ("judges", ["a", "b"])
    assert not judge(samples(WRONG), WRONG, {"a": SAID}, **DRAWN)["released"]  # no change is no gain


def test_nobody_can_judge():
    assert judge(samples(SAID), WRONG, {}, **DRAWN)["by"] == "nobody"
    assert "was held out" in judge([], [], {}, **DRAWN)["reason"]


@pytest.mark.parametrize("texts", [[""] * len(SAID), ["gracias por ver el video"] * len(SAID)])
def test_a_judge_that_hears_something_else_has_no_say(texts):
    found = judge(samples([""] * len(SAID)), WRONG, {"odd": texts}, **DRAWN)
    assert (found["released"], found["by"], found["left_out"]) == (False, "nobody", ["odd"])


def test_a_judge_of_other_recordings_has_no_say():
    said = [f"{text} {place}" for text in SAID for place in ("here", "there")]
    heard = [text.replace("the", "a") for text in said]
    rows = [Sample(str(i), "clean", 1.0, "", "", "llm", None, True, finetuned=text) for i, text in enumerate(said)]
    assert judge(rows, heard, {"good": said}, **DRAWN)["released"]
    turned = judge(rows, heard, {"turned": said[7:] + said[:7]}, **DRAWN)
    assert (turned["by"], turned["left_out"]) == ("nobody", ["turned"])


def test_a_poor_judge_that_hears_has_its_say():
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abdegiklmnoprstu"), 5)) for _ in range(200)]
    said = [" ".join(random.choice(words, 6)) for _ in range(60)]

    def misheard(rate: float) -> list[str]:
        return [" ".join(str(random.choice(words)) if random.random() < rate else w for w in t.split()) for t in said]

    rows = [Sample(str(i), "clean", 1.0, "", "", "llm", None, True, finetuned=t) for i, t in enumerate(misheard(0.2))]
    heard, poor = misheard(0.65), misheard(0.65)
    found = judge(rows, heard, {"poor": poor}, **DRAWN)
    assert disagreement([heard, poor]) > 0.8 and found["released"] and found["judges"] == ["poor"]


def test_who_comes_closer_by_leaving_out_is_not_better():
    said = [f"{text} in the {text.split()[2]} house" for text in SAID]
    new = [text.rpartition(" ")[0] for text in said]  # without the last word
    found = judge(samples(new, said), [f"{text} or so" for text in said], {}, **DRAWN)
    assert found["difference"] > 0 and not found["released"] and "words in common" in found["reason"]


def test_who_writes_little_is_not_better():
    half = [text.split()[1] for text in SAID]
    found = judge(samples(half, half), SAID, {}, **DRAWN)
    assert not found["released"] and "it writes" in found["reason"]


def test_chance_is_no_gain():
    one = [SAID[0], *WRONG[1:]]
    found = judge(samples(one, SAID), WRONG, {}, **DRAWN)
    assert found["difference"] > 0 and not found["released"] and "no sure gain" in found["reason"]
