"""Options of clustering: ranges, and those without effect."""

import pytest
from parsing import parse

from hf_components.moe.clustering import ClusteringArguments
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 1}, "--num_experts must be at least 2, got 1"),
        ({"reduce_dim": 0}, "--reduce_dim must be at least 2, got 0"),
        ({"target_entropy": 1.0}, r"--target_entropy must lie in \(0, 1\), got 1.0"),
        ({"algorithm": "hdbscan", "min_cluster_size": 1}, "--min_cluster_size must be at least 2, got 1"),
        ({"algorithm": "hdbscan", "min_samples": 0}, "--min_samples must be at least 1, got 0"),
        ({"algorithm": "hdbscan", "max_retries": -1}, "--max_retries must be at least 0, got -1"),
        ({"algorithm": "auto", "min_experts": 5}, "min_experts must be at most num_experts = 4, got 5"),
        ({"cluster_by": "group"}, "invalid choice: 'group'"),
        ({"algorithm": "hdbscan", "min_experts": 5}, "min_experts must be at most num_experts = 4, got 5"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(UserError, match=message):
        parse(ClusteringArguments, **options).check()


HDBSCAN_FLAGS = [
    "--min_clusters=3",
    "--min_cluster_size=9",
    "--min_samples=4",
    "--metric=cosine",
    "--allow_single_cluster",
    "--hdbscan-algorithm=generic",
    "--max_retries=1",
    "--min-experts=3",
    "--no-reduce-experts",
]


@pytest.mark.parametrize("flag", HDBSCAN_FLAGS)
@pytest.mark.parametrize("algorithm", ["kmeans", "spectral", "group"])
def test_options_of_hdbscan_are_ignored_by_name_elsewhere(flag, algorithm, capsys):
    parse_arguments(ClusteringArguments, [f"--clustering_algorithm={algorithm}", flag])
    name = flag.split("=")[0].replace("-", "_").strip("_")
    told = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"--{name} has no effect without --algorithm hdbscan or auto; leave it out, or change that"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "group"},
        {"algorithm": "hdbscan", "min_samples": 4, "metric": "cosine"},
        {"algorithm": "auto", "min_samples": 4, "cluster_by": "utterance"},
        {"algorithm": "ward", "cluster_by": "speaker"},
        {"reduce": "umap"},
    ],
)
def test_what_has_effect_goes_without_a_word(options, caplog):
    parse_arguments(ClusteringArguments, [f"--{name}={value}" for name, value in options.items()])
    assert not caplog.records
