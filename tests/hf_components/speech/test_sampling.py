import random

import pytest

from hf_components.runtime.errors import UserError
from hf_components.speech.sampling import Sampling, at_most_rows, sample

pytestmark = pytest.mark.unit
IDS = [f"speaker/{n}" for n in range(200)]
GROUPS = ["a"] * 150 + ["b"] * 45 + ["c"] * 5


def test_everything_by_default():
    assert sample(IDS, GROUPS) == list(range(200))
    assert sample([], []) == []


@pytest.mark.parametrize("sampling", ["random", "stratified"])
def test_choice_depends_on_seed_and_ids_alone(sampling):
    chosen = {IDS[i] for i in sample(IDS, GROUPS, sampling, percent=25, seed=1)}
    order = random.Random(0).sample(range(200), 200)
    shuffled_ids, shuffled_groups = [IDS[i] for i in order], [GROUPS[i] for i in order]
    assert chosen == {shuffled_ids[i] for i in sample(shuffled_ids, shuffled_groups, sampling, percent=25, seed=1)}
    assert chosen != {IDS[i] for i in sample(IDS, GROUPS, sampling, percent=25, seed=2)}
    assert len(chosen) == 50


def test_adding_files_does_not_reshuffle_the_rest():
    before = {IDS[i] for i in sample(IDS[:190], GROUPS[:190], max_samples=50)}
    after = {IDS[i] for i in sample(IDS, GROUPS, max_samples=50)}
    assert len(before - after) == len(after & set(IDS[190:])) <= 10


def test_smaller_samples_are_part_of_larger_ones():
    sizes = [set(sample(IDS, GROUPS, percent=p)) for p in (5, 20, 60, 100)]
    assert all(small < large for small, large in zip(sizes, sizes[1:], strict=False))


def test_percent_and_max_samples_bound_together():
    assert len(sample(IDS, GROUPS, percent=50, max_samples=30)) == 30
    assert len(sample(IDS, GROUPS, percent=10, max_samples=30)) == 20
    assert len(sample(IDS, GROUPS, percent=0.001)) == 1


@pytest.mark.parametrize(
    "size, expected",
    [
        (1, {"a": 1}),
        (3, {"a": 1, "b": 1, "c": 1}),
        (20, {"a": 15, "b": 4, "c": 1}),
        (40, {"a": 30, "b": 9, "c": 1}),
        (200, {"a": 150, "b": 45, "c": 5}),
    ],
)
def test_stratified_keeps_shares_and_every_group_it_has_room_for(size, expected):
    chosen = [GROUPS[i] for i in sample(IDS, GROUPS, "stratified", max_samples=size)]
    assert {group: chosen.count(group) for group in set(chosen)} == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"percent": 0}, r"percent must lie in \(0, 100\], got 0"),
        ({"percent": 101}, "got 101"),
        ({"percent": float("nan")}, "got nan"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"sampling": "even"}, "sampling must be one of random, stratified, got 'even'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        sample(IDS, GROUPS, **options)


def test_a_limit_of_rows_is_added_to_an_override():
    assert at_most_rows(None, None) is None and at_most_rows('{"percent": 5}', None) == '{"percent": 5}'
    assert Sampling.parse(at_most_rows('{"percent": 5}', 7)) == Sampling(percent=5, max_samples=7)
    assert at_most_rows(at_most_rows(None, 7), 7) == '{"max_samples": 7}'
    with pytest.raises(UserError, match="max_samples is 7, and 8 in data_config_override; leave one of them out"):
        at_most_rows('{"max_samples": 8}', 7)
