"""Examples of a voice: which are taken, and whether they help."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_speech import tiny_processor, tiny_whisper, tone

from hf_components.voices import context
from hf_components.voices.context import LONGEST_FILE, Tried, best_examples, judge, try_examples
from hf_components.voices.sentences import Sentence

pytestmark = pytest.mark.unit


def said(*texts: str, seconds: float = 1.0) -> list[Sentence]:
    return [Sentence(f"{i}", np.zeros(int(16_000 * seconds), np.float32), text) for i, text in enumerate(texts)]


TEXTS = ["red cat", "green dog", "blue sun"]


def tried(alone: list[str], after: dict) -> Tried:
    return Tried(TEXTS, alone, after)


def test_examples_that_mend_errors_help():
    found = tried(
        ["red hat", "green fog", "blue sun"],
        {
            0: {1: "green dog", 2: "blue sun"},
            1: {0: "red cat", 2: "blue sun"},
            2: {0: "red cat", 1: "green dog"},
        },
    )
    judged = judge(found, certainty=0)
    assert (judged.helps, judged.errors_before, judged.errors_after) == (True, 2, 0)
    assert not judge(found, certainty=9).helps


@pytest.mark.parametrize(
    "alone",
    [["red cat", "green dog", "blue sun"], ["red hat", "green dog", "blue sun"]],
    ids=["without errors", "with one"],
)
def test_examples_that_make_errors_do_not(alone):
    wrong = {0: {1: "x", 2: "y"}, 1: {0: "x", 2: "y"}, 2: {0: "x", 1: "y"}}
    assert not judge(tried(alone, wrong), certainty=0).helps


def test_the_best_examples_are_taken_and_of_equal_ones_the_shortest():
    found = tried(
        ["red hat", "green fog", "blue sun"],
        {0: {1: "green fog", 2: "blue sun"}, 1: {0: "red cat", 2: "blue sun"}, 2: {0: "red hat", 1: "green fog"}},
    )
    assert best_examples(found, said(*TEXTS), most=1) == [1]
    assert best_examples(found, said(*TEXTS), most=5) == [0, 1, 2]
    long = said(*TEXTS, seconds=LONGEST_FILE / 2 - 1)
    assert len(best_examples(found, long, most=5)) == 2  # the file of a voice stays small


def test_a_voice_that_is_not_understood_has_no_examples():
    sentences = [Sentence(f"{i}", tone(0, i, 1.0), text) for i, text in enumerate(("red cat", "green dog"))]
    found = try_examples(tiny_whisper(), tiny_processor(), sentences, most=2)  # of random weights: all words are wrong
    assert found.after == {} and len(found.alone) == 2 and not judge(found, certainty=0).helps


def test_a_sentence_is_never_its_own_example(monkeypatch):
    monkeypatch.setattr(context, "UNHEARD", 100.0)
    sentences = [
        Sentence(str(i), tone(i, i, 0.6).astype("float32"), text) for i, text in enumerate([*TEXTS, "red cat"])
    ]
    found = try_examples(tiny_whisper(positions=128), tiny_processor(), sentences, most=3)
    assert set(found.after) == {0, 1, 2} and len(found.alone) == 4
    assert set(found.after[0]) == {1, 2}  # the last one says the same
    assert all(example not in written for example, written in found.after.items())


def test_a_long_recording_is_no_example():
    sentences = [Sentence("long", np.zeros(16_000 * 11, np.float32), "red cat"), *said("green dog")]
    assert 0 not in try_examples(tiny_whisper(positions=128), tiny_processor(), sentences, most=5).after


def test_errors_are_those_of_the_language():
    texts = ["mister x", "guten tag"]
    found = Tried(texts, ["mr x", "guten tag"], {0: {1: "guten tag"}, 1: {0: "mister x"}}, language="de")
    assert (judge(found, 0).errors_before, judge(replace(found, language="en"), 0).errors_before) == (1, 0)
