"""The estimate of time and disk space."""

import logging
from types import SimpleNamespace

import pytest

from hf_components.runtime import estimates
from hf_components.runtime.estimates import estimate_rest

pytestmark = pytest.mark.unit


def test_the_rest_goes_on_as_it_began(tmp_path, capsys):
    assert estimate_rest("segmenting", tmp_path, done=600, total=36_000, seconds=12, bytes_written=3 << 20) == (
        708,
        59 * 3 << 20,
    )
    printed = capsys.readouterr().err
    assert (
        "Estimated rest of segmenting: ~11.8 minutes and 177.0 MiB of the " in printed and "the first 1.7%" in printed
    )


def test_nothing_is_said_of_the_disk_where_nothing_is_written(tmp_path, capsys):
    assert estimate_rest("k-means", tmp_path, done=5, total=5, seconds=3) == (0, 0)
    assert capsys.readouterr().err.strip() == "Estimated rest of k-means: ~0.0 minutes (measured on the first 100.0%)"


@pytest.mark.parametrize(("free", "warned"), [(9 << 30, True), (11 << 30, False)])
def test_a_disk_that_is_too_small_is_warned_of(tmp_path, caplog, monkeypatch, free, warned):
    monkeypatch.setattr(estimates, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=free)))
    with caplog.at_level(logging.WARNING):
        estimate_rest("segmenting", tmp_path, done=1, total=11, seconds=1, bytes_written=1 << 30)
    assert ("segmenting needs about 10.0 GiB more" in caplog.text) == warned
