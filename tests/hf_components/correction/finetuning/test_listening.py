"""Who hears the recordings, found without truth."""

import numpy as np
import pytest

from hf_components.correction.finetuning.listening import likeness, listeners

pytestmark = pytest.mark.unit

LETTERS = list("bdgklmnprstvaeiou")


def sentences(count: int = 60, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join("".join(random.choice(LETTERS, 4)) for _ in range(random.integers(3, 9))) for _ in range(count)]


def misheard(texts: list[str], rate: float, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [
        "".join(str(random.choice(LETTERS)) if c != " " and random.random() < rate else c for c in text)
        for text in texts
    ]


def test_who_makes_texts_up_does_not_hear():
    said = sentences()
    nonsense = misheard(said, 1.0, 1)  # as long as what was said, word by word
    texts = [misheard(said, 0.7, 2), misheard(said, 0.1, 3), nonsense, misheard(nonsense, 0.1, 4), [""] * len(said)]
    assert listeners([*texts, [*said[1:], said[0]]]) == [0, 1]


def test_who_is_like_a_listener_hears():
    said = sentences()
    weak, good, other = misheard(said, 0.85, 5), misheard(said, 0.3, 6), misheard(said, 0.85, 7)
    assert likeness(good, weak) > 3 and likeness(good, other) > 3
    assert listeners([weak, other, good]) == [0, 1, 2]


def test_chance_is_no_hearing():
    found = [likeness(sentences(seed=seed), sentences(seed=seed + 100)) for seed in range(20)]
    assert max(found) < 3 and abs(np.mean(found)) < 1


def test_few_recordings_tell_nothing():
    assert listeners([["a b"] * 5, ["c d"] * 5]) == [0, 1]
