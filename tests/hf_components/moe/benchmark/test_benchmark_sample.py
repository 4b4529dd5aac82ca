"""The fixed sample of a benchmark."""

import json

import pytest
from tiny_speech import rows

from hf_components.moe.benchmark.sample import fixed_sample, sample_file
from hf_components.runtime.errors import UserError
from hf_components.speech.sampling import Sampling

pytestmark = pytest.mark.unit


def test_the_sample_is_drawn_once_and_kept(tmp_path):
    corpus, file = rows(12), tmp_path / "deep" / "sample.json"
    first = fixed_sample(corpus, file, Sampling(max_samples=5, seed=1))
    written = json.loads(file.read_text())
    assert len(first) == written["size"] == 5 and written["ids"] == first["id"][:]
    assert (written["percent"], written["max_samples"], written["seed"]) == (100, 5, 1)
    assert fixed_sample(corpus, file, Sampling(max_samples=9, seed=2))["id"][:] == first["id"][:]
    backwards = corpus.select(range(11, -1, -1))
    assert fixed_sample(backwards, file, Sampling(max_samples=5, seed=1))["id"][:] == first["id"][:]
    assert fixed_sample(corpus, tmp_path / "other.json", Sampling(max_samples=5, seed=2))["id"][:] != first["id"][:]


@pytest.mark.parametrize(("percent", "max_samples", "size"), [(50, 200, 6), (100, 200, 12), (50, 4, 4), (1, 200, 1)])
def test_percent_and_the_upper_bound(tmp_path, percent, max_samples, size):
    sampling = Sampling(percent=percent, max_samples=max_samples)
    assert len(fixed_sample(rows(12), tmp_path / "sample.json", sampling)) == size


def test_whatever_changes_the_sample_changes_its_file(tmp_path):
    corpus, sampling = rows(6), Sampling(max_samples=4, seed=1)
    files = {
        sample_file(tmp_path, corpus, "dev", sampling),
        sample_file(tmp_path, corpus, "train", sampling),
        sample_file(tmp_path, rows(6, first=1), "dev", sampling),
        *(
            sample_file(tmp_path, corpus, "dev", Sampling(**{"max_samples": 4, "seed": 1, **other}))
            for other in ({"seed": 2}, {"max_samples": 5}, {"percent": 50})
        ),
    }
    assert len(files) == 6
    assert sample_file(tmp_path, corpus.select([3, 1, 0, 2, 5, 4]), "dev", sampling) in files  # order is no change


def test_a_sample_of_another_corpus_is_refused(tmp_path):
    file = tmp_path / "sample.json"
    fixed_sample(rows(6), file, Sampling(max_samples=4))
    with pytest.raises(UserError, match="names 4 utterances that the corpus lacks"):
        fixed_sample(rows(6, first=50), file, Sampling(max_samples=4))


@pytest.mark.parametrize("content", ["{", '{"size": 3}', "[]"])
def test_a_sample_file_that_is_none_is_named(tmp_path, content):
    file = tmp_path / "sample.json"
    file.write_text(content)
    with pytest.raises(UserError, match="it is not a sample"):
        fixed_sample(rows(3), file, Sampling(max_samples=4))
