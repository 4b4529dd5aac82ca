"""Texts and rates of the SAP challenge: fixed cases with the values of the organisers' own scorer.

The figures are those of evaluate.sh in github.com/xiuwenz2/SAPC-template at c48d945, with sclite 2.4.10 of Debian.
"""

import numpy as np
import pytest

from hf_components.scoring.sap import align_words, sap_counts, score_sap
from hf_components.scoring.sap_text import hypothesis_text, reference_texts

pytestmark = pytest.mark.unit

# transcript, text of a system, both references, hypothesis, (CER errors, CER length, WER errors, WER length)
CASES = [
    (
        "Set a timer, please.",
        "set a timer please",
        "set a timer please",
        "set a timer please",
        "set a timer please",
        (0, 18, 0, 4),
    ),
    ("(um) I (I) went home", "I went home", "i i went home", "i went home", "i went home", (0, 11, 0, 3)),
    ("(um) I (I) went home", "I I went home", "i i went home", "i went home", "ii went home", (1, 13, 1, 3)),
    (
        "{w:2} went {w:1} home",
        "he just went straight home",
        "unk unk went unk home",
        "unk unk went unk home",
        "he just went straight home",
        (0, 26, 0, 5),
    ),
    (
        "{w:2} went {w:1} home",
        "went home",
        "unk unk went unk home",
        "unk unk went unk home",
        "went home",
        (0, 9, 0, 2),
    ),
    (
        "{u: maybe} then { } and {}",
        "perhaps then now and",
        "unk then unk and",
        "unk then unk and",
        "perhaps then now and",
        (0, 20, 0, 4),
    ),
    ("a {w:1} b", "unk a x b unk", "a unk b", "a unk b", "unk axb unk", (7, 7, 3, 3)),
    (
        "{cs: hola amigo} he said",
        "hola amigo he said",
        "hola amigo he said",
        "hola amigo he said",
        "hola amigo he said",
        (0, 18, 0, 4),
    ),
    (
        "(cs: Go ahead.) What time is it?",
        "what time is it",
        "go ahead what time is it",
        "go ahead what time is it",
        "what time is it",
        (9, 24, 2, 6),
    ),
    (
        "#dis\n(f-*) Find my phone.",
        "find my phone",
        "f find my phone",
        "find my phone",
        "find my phone",
        (0, 13, 0, 3),
    ),
    (
        "My name is ~J ~O from ~N ~P ~R.",
        "My name is JO from NPR",
        "my name is jo from npr",
        "my name is jo from npr",
        "my name is jo from npr",
        (0, 22, 0, 6),
    ),
    (
        "The T V and the U.S.A. and S-O-S",
        "the TV and the USA and SOS",
        "the tv and the usa and sos",
        "the tv and the usa and sos",
        "the tv and the usa and sos",
        (0, 26, 0, 7),
    ),
    ("[cough] hello] good [x] bye", "good bye", "good bye", "good bye", "good bye", (0, 8, 0, 2)),
    (
        "St. John lives on Main St. now",
        "saint john lives on main street now",
        "saint john lives on main street now",
        "saint john lives on main street now",
        "saint john lives on main street now",
        (0, 35, 0, 7),
    ),
    (
        "It's mom's coffee's cup, let's go",
        "it is moms coffee is cup let us go",
        "it is mom's coffee is cup let is go",
        "it is mom's coffee is cup let is go",
        "it is moms coffee is cup let us go",
        (2, 35, 2, 9),
    ),
    (
        "I won't, can't; we've been 'there'",
        "I will not can not we have been there",
        "i will not can not we have been there",
        "i will not can not we have been there",
        "i will not can not we have been there",
        (0, 37, 0, 9),
    ),
    ("twenty one dollars and five cents", "$21.05", "$21.05", "$21.05", "$21.05", (0, 6, 0, 1)),
    ("one hundred and a half per cent", "100.5%", "100.5%", "100.5%", "100.5%", (0, 6, 0, 1)),
    (
        "I have 1 and 1.30 and ones",
        "I have one and 1.30 and ones",
        "i have one and 1.30 and ones",
        "i have one and 1.30 and ones",
        "i have one and 1.30 and ones",
        (0, 28, 0, 7),
    ),
    (
        "get 'em gonna wanna... y'all",
        "get them going to want to you all",
        "get em going to want to you all",
        "get em going to want to you all",
        "get them going to want to you all",
        (2, 31, 1, 8),
    ),
    (
        "The travelogue of archaeological cancellation",
        "the travelog of archeological cancelation",
        "the travelog of archeological cancelation",
        "the travelog of archeological cancelation",
        "the travelog of archeological cancelation",
        (0, 41, 0, 5),
    ),
    ("“Curly” don’t", "curly don't", "curly don t", "curly don t", "curly do not", (2, 11, 2, 3)),
    ("café über naïve", "cafe uber naive", "cafe uber naive", "cafe uber naive", "cafe uber naive", (0, 15, 0, 3)),
    ("yes", "no no no no no", "yes", "yes", "no no no no no", (3, 3, 1, 1)),
    ("{w:1}", "anything at all", "unk", "unk", "anything at all", (3, 3, 1, 1)),
    ("(er) (ah)", "er", "er ah", "", "er", (3, 5, 1, 2)),
    ("(a b)", "c d e", "ab", "", "cde", (2, 2, 1, 1)),
    ("colour grey", "color gray", "color gray", "color gray", "color gray", (0, 10, 0, 2)),
    (
        "red {w:1} {w:1} blue",
        "red green blue",
        "red unk unk blue",
        "red unk unk blue",
        "red green blue",
        (0, 14, 0, 3),
    ),
    ("the (the) cat sat", "cat sat the", "the the cat sat", "the cat sat", "cat sat the", (7, 11, 2, 3)),
    (
        "Doctor Brown at 7.30 p.m.",
        "Dr. Brown at 7:30 PM",
        "doctor brown at 7.30 pm",
        "doctor brown at 7.30 pm",
        "doctor brown at 7 30 pm",
        (1, 23, 2, 5),
    ),
    (
        "no",
        "supercalifragilisticsupercalifragilisticsupercalifragilisticsupercalifragilisticsupercalifragilistic",
        "no",
        "no",
        "supercalifragilisticsupercalifragilisticsupercalifragilisticsupe",
        (2, 2, 1, 1),
    ),
]
OFFICIAL = {"n_utts": 32, "wer": 0.16129031777381897, "cer": 0.08255159109830856}


@pytest.mark.parametrize(("raw", "text", "kept", "dropped", "hypothesis", "counts"), CASES)
def test_a_case_as_the_official_scorer_counts_it(raw, text, kept, dropped, hypothesis, counts):
    assert reference_texts(raw) == [kept, dropped]
    assert hypothesis_text(text) == hypothesis
    found = sap_counts([text], [[kept, dropped]])
    assert tuple(float(column[0]) for column in found.values()) == counts


def test_all_cases_together_give_the_official_rates():
    counts = sap_counts([case[1] for case in CASES], [reference_texts(case[0]) for case in CASES])
    found = score_sap(counts, None, num_bootstrap=100)
    assert list(found)[0] == "cer"  # as the challenge ranks
    assert found["utterances"] == OFFICIAL["n_utts"]
    assert [found["cer"], found["wer"]] == pytest.approx([OFFICIAL["cer"], OFFICIAL["wer"]], abs=1e-6)
    assert found["cer_interval"][0] < found["cer"] < found["cer_interval"][1]


def test_intervals_resample_speakers():
    counts = sap_counts(["a b", "c d", "e f"], [["a b", "a b"], ["c x", "c x"], ["y z", "y z"]])
    assert score_sap(counts, ["one", "one", "two"], num_bootstrap=50)["speakers"] == 2
    assert score_sap(counts, ["one", "one", "one"], num_bootstrap=50)["wer_interval"] is None


def test_a_silent_utterance_costs_nothing_and_noise_over_it_does():
    # The official parser leaves out an utterance whose reference and hypothesis are both empty.
    silent = sap_counts([""], [["", ""]])
    assert not np.concatenate(list(silent.values())).any()
    assert sap_counts(["no yes"], [["", ""]])["wer_errors"] == 2
    assert sap_counts([""], [["er", ""]])["wer_errors"] == 1


def test_a_hypothesis_is_cut_as_in_the_challenge():
    words = hypothesis_text("x" * 100 + " y" * 600).split()
    assert len(words) == 2  # spelled letters become one word, which is cut as well
    assert set(map(len, words)) == {64}
    assert len(hypothesis_text("word " * 600).split()) == 512


def test_of_two_gaps_sclite_takes_the_insertion():
    assert align_words(["a", "b"], ["b", "a"]) == [("a", None), ("b", "b"), (None, "a")]
    assert align_words([], ["a"]) == [(None, "a")]
    assert align_words(["a"], []) == [("a", None)]
