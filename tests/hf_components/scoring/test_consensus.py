"""One text out of several: the nearest to all, a vote on each word; and how much texts differ."""

import jiwer
import numpy as np
import pytest

from hf_components.runtime.errors import UserError
from hf_components.scoring.consensus import disagreement, nearest_to_all, vote

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["alone"], 0),
        (["the cat sat", "the dog sat", "the cat ran"], 0),  # 2, 3 and 3 words from the others
        (["a dog ran", "the cat sat", "the cat ran"], 2),
        (["red", "blue"], 0),  # the lower of equals
        (["x y z", "Red, Blue!", "red blue"], 1),  # case and punctuation do not count
        (["", "", "moon"], 0),
    ],
)
def test_the_text_nearest_to_all(texts, expected):
    assert nearest_to_all(texts) == expected


def test_nearest_is_by_the_mean_distance_that_jiwer_counts():
    rng = np.random.default_rng(0)
    for _ in range(20):
        texts = [" ".join(rng.choice(["red", "sun", "cat"], rng.integers(1, 6))) for _ in range(4)]
        errors = [
            sum(
                found.substitutions + found.deletions + found.insertions
                for other in texts
                for found in [jiwer.process_words(own, other)]
            )
            for own in texts
        ]
        assert nearest_to_all(texts) == int(np.argmin(errors))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["alone, as it is"], "alone, as it is"),
        (["the cat sat on"] * 3, "the cat sat on"),
        # Each text has one error in another place, and the vote has none.
        (["the hat sat on it", "the cat mat on it", "the cat sat on if"], "the cat sat on it"),
        (["the cat sat", "the cat", "the cat sat"], "the cat sat"),  # one leaves a word out
        (["cat sat", "the cat sat", "the cat ran"], "the cat sat"),
        (["the big cat", "the cat", "the big cat", "the cat", "a cat"], "the cat"),
        (["red sun", "red moon sun", "red moon sun cat"], "red moon sun"),
        (["red", "blue"], "red"),  # a tie goes to the text that is nearest to all, the first of equals
        (["red sun", "blue sun", "green sun"], "red sun"),
        (["", "moon", ""], ""),
        (["moon", "", "moon"], "moon"),
    ],
)
def test_a_vote_on_each_word(texts, expected):
    assert vote(texts) == expected


def test_words_between_those_of_the_aligned_text_are_voted_on_too():
    # The first is the nearest to all; the words that three of five have are inserted, before, between and after.
    texts = ["red sun", "cat red moon sun dog", "cat red moon sun", "red moon sun dog", "cat red sun dog"]
    shorter = ["red sun", "cat red sun", "red moon sun", "red sun dog", "red sun"]
    assert vote(texts) == "cat red moon sun dog"
    assert vote(shorter) == "red sun"


def test_a_word_without_more_votes_than_the_others_does_not_replace_the_aligned_one():
    texts = ["red cat sun", "blue cat sun", "blue cat sun", "green cat sun", "green cat sun"]
    assert nearest_to_all(texts) == 1 and vote(texts) == "blue cat sun"


def test_words_are_compared_normalised_and_returned_as_they_were_written():
    assert vote(["The cat, sat.", "the Cat sat", "the dog sat"]) == "The cat, sat."
    assert vote(["a cat", "a Dog!", "a dog"]) == "a Dog!"
    assert vote(["We won't - go", "we will sing", "We won't go"]) == "We won't - go"  # the dash stays with its word
    assert vote(["- um -"] * 3) == "- um -"


def test_the_language_decides_what_is_the_same_word():
    texts = ["ISI var", "ısı var", "isi yok"]
    assert nearest_to_all(texts, "tr") == 0 and vote(texts, "tr") == "ISI var"
    # With a dotted i, as in English, the first and the last have the same first word.
    assert disagreement([[text] for text in texts[:2]], "tr") == 0 < disagreement([[text] for text in texts[:2]], "de")


def test_the_vote_is_better_than_every_text_whose_errors_are_independent():
    rng = np.random.default_rng(1)
    words = np.array(["red", "green", "blue", "sun", "moon", "cat", "dog"])
    references = [list(rng.choice(words, 8)) for _ in range(100)]
    systems = [
        [" ".join(rng.choice(words) if rng.random() < 0.2 else word for word in reference) for reference in references]
        for _ in range(5)
    ]
    expected = [" ".join(reference) for reference in references]
    voted = [vote(texts) for texts in zip(*systems, strict=True)]
    assert jiwer.wer(expected, voted) < 0.4 * min(jiwer.wer(expected, texts) for texts in systems)


def test_disagreement_by_hand():
    systems = [["red sun", "cat dog"], ["Red moon!", "cat, dog."], ["moon", ""]]
    # Of the first utterance 1 of 2 words, 2 of 1.5 on average, 1 of 1.5; of the second none, and 2 of 1 twice.
    assert disagreement(systems) == pytest.approx(np.mean([1 / 2, 2 / 1.5, 1 / 1.5, 0, 2, 2]))
    assert disagreement([["", "a"], ["um", "A"]]) == 0  # the filler is not scored
    assert disagreement([["red"]]) == 0 == disagreement([["a"], ["a"], ["a"]])


def test_an_unknown_language_is_refused():
    with pytest.raises(UserError, match="language"):
        vote(["a", "b"], "none at all")
