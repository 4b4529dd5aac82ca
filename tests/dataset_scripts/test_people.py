"""Sentences of each person, from the forms of data that the recipes of voices take."""

import pytest
from make_corpus import small_corpus

from dataset_scripts.people import people_of

pytestmark = pytest.mark.unit


def test_splits_of_speakers_may_have_any_name_that_a_builder_reads(tmp_path):
    data = small_corpus(tmp_path / "speakers")
    expected = set(people_of(data, None, tmp_path / "work"))
    (data / "Train").rename(data / "test1")
    (data / "Dev").rename(data / "TEST2")
    assert set(people_of(data, None, tmp_path / "work")) == expected == {"A", "B", "C"}
