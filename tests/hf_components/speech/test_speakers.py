"""Who is known to speak, in counts and in words."""

import pytest

from hf_components.speech.speakers import count_speakers, describe_dev, known_speakers, say_speakers

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "names, count, words",
    [
        (["unknown"] * 82, None, "speakers unknown"),
        (["", None, " Unknown "], None, "speakers unknown"),
        ([], None, "speakers unknown"),
        (["ada", "ada"], 1, "1 speaker"),
        (["ada", "ben", "unknown"], 2, "2 speakers and unknown ones"),
    ],
)
def test_nobody_is_counted_who_is_not_known(names, count, words):
    assert count_speakers(names) == count and say_speakers(names) == words
    assert len(known_speakers(names)) == (count or 0)


@pytest.mark.parametrize(
    "train, dev, last_part, words",
    [
        (["ada", "ben"], ["carl"], False, "held-out speakers: none of them is in train"),
        (["ada", "ben"], ["ada"], False, "held-out recordings of the same speakers as in train"),
        (["ada"], ["ada"], True, "the last part of each recording of the same speakers as in train"),
        (["ada", "ben"], ["ada", "carl"], False, "held-out recordings; 1 of 2 speakers are in train too"),
        (["unknown"], ["unknown"], False, "held-out recordings; speakers unknown, so the same voices may be in train"),
        (
            ["ada", "unknown"],
            ["ben", "unknown"],
            False,
            "held-out recordings; some speakers unknown, so the same voices may be in train",
        ),
        (
            ["ada", "unknown"],
            ["ben"],
            False,
            "held-out speakers, who are not among the known speakers of train; others in train are unknown",
        ),
    ],
)
def test_what_dev_holds_out(train, dev, last_part, words):
    assert describe_dev(train, dev, last_part) == words
