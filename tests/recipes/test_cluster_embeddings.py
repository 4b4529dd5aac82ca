"""The stage cluster_embeddings, in-process on synthetic embeddings."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hf_components.moe.labels import load_labels
from hf_components.runtime.errors import UserError
from hf_components.runtime.fingerprints import fingerprint
from recipes import cluster_embeddings
from recipes.cluster_embeddings import main

pytestmark = pytest.mark.integration

QUICK = "recipes/configs/cluster_embeddings/quick.yaml"


@pytest.fixture
def embedding_dir(tmp_path):
    rng = np.random.default_rng(0)
    group = np.arange(120) % 4
    speaker = np.arange(120) // 4 % 5
    folder = tmp_path / "embeddings"
    folder.mkdir()
    vectors = (3 * rng.normal(size=(4, 24))[group] + rng.normal(size=(120, 24))).astype(np.float32)
    pyarrow.parquet.write_table(
        pyarrow.table(
            {
                "id": [f"u{i}" for i in range(120)],
                "split": np.where(speaker == 4, "dev", "train"),
                "speaker_id": [f"{g}-{s}" for g, s in zip(group, speaker, strict=True)],
                "group": np.array(["adult", "child", "digits", "studio"])[group],
                "duration": rng.uniform(1, 9, 120),
                "embedding": pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), 24),
            }
        ),
        folder / "embeddings.parquet",
    )
    (folder / "embeddings.json").write_text(json.dumps({"model": "tiny", "layer": 2, "pooling": "mean"}))
    return folder


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def command(embedding_dir, output_dir, *more: str) -> list[str]:
    return ["--config", QUICK, "--embedding_dir", str(embedding_dir), "--output_dir", str(output_dir), *more]


@pytest.mark.parametrize("algorithm", ["kmeans", "ward", "gmm", "spectral", "hdbscan", "group", "auto"])
def test_writes_labels_summary_and_plot(embedding_dir, tmp_path, algorithm, capsys):
    output_dir = tmp_path / "clusters"
    summary = main(command(embedding_dir, output_dir, "--clustering_algorithm", algorithm))
    rows = pyarrow.parquet.read_table(output_dir / "labels.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"u{i}" for i in range(120)]
    assert all(np.argmax(row["weights"]) == row["label"] for row in rows)
    assert len({(int(row["id"][1:]) % 4, row["label"]) for row in rows}) == 4  # groups and clusters are one to one
    labels = load_labels(output_dir)
    assert labels.num_experts == 4 and np.allclose(
        labels.weights_of(["u7", "u2"]), [rows[7]["weights"], rows[2]["weights"]]
    )
    assert json.loads((output_dir / "summary.json").read_text()) == summary
    assert summary["splits"]["dev"]["per_expert"] == [6, 6, 6, 6]
    assert (output_dir / "clusters.png").stat().st_size > 10_000
    shown = capsys.readouterr()
    by_speaker = algorithm not in ("hdbscan", "group")
    assert (summary["cluster_by"] == "speaker") == by_speaker
    taken = "kmeans" if algorithm == "auto" else algorithm
    assert "NMI with group 1.00" in shown.out and f"{taken}{' by speaker' * by_speaker}, 4 experts" in shown.out
    assert ("Clusterings that were tried" in shown.out) == (algorithm == "auto")
    assert f"{algorithm} clustering of 120 embeddings by" in shown.err and "peak memory of the process" in shown.err


def test_the_summary_says_what_hdbscan_used(embedding_dir, tmp_path, capsys):
    given = ["--algorithm=hdbscan", "--min_cluster_size=40", "--min_samples=3", "--metric=cosine", "--no_plot"]
    summary = main(command(embedding_dir, tmp_path / "clusters", *given))
    used = summary["parameters"]
    assert [attempt["min_cluster_size"] for attempt in used["attempts"]] == [40, 20]
    assert (used["min_cluster_size"], used["min_samples"], used["metric"], used["clusters_found"]) == (
        20,
        3,
        "cosine",
        4,
    )
    assert "min_cluster_size 20, 2 attempts" in " ".join(capsys.readouterr().out.split())


def test_options_of_the_other_algorithm_are_named_as_ignored(embedding_dir, tmp_path, capsys):
    main(command(embedding_dir, tmp_path / "clusters", "--min_samples=3", "--no-reduce-experts", "--no_plot"))
    warnings = [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert warnings == [
        "--min_samples has no effect without --algorithm hdbscan or auto; leave it out, or change that",
        "--no_reduce_experts has no effect without --algorithm hdbscan or auto; leave it out, or change that",
    ]


def test_resume_no_plot_and_another_plot(embedding_dir, tmp_path, monkeypatch):
    output_dir = tmp_path / "clusters"
    first = main(command(embedding_dir, output_dir, "--no_plot"))
    assert not (output_dir / "clusters.png").exists()
    with monkeypatch.context() as patch:
        patch.setattr(cluster_embeddings, "cluster", None)  # calling it again would fail
        assert main(command(embedding_dir, output_dir, "--no_plot", "--resume")) == first
    before = fingerprint(output_dir)
    drawn = []
    monkeypatch.setattr(cluster_embeddings, "produce", None)  # calling it again would fail
    monkeypatch.setattr(
        cluster_embeddings, "to_plane", lambda points, method, seed: drawn.append(method) or points[:, :2]
    )
    for words in (["--plot"], ["--plot"], ["--plot", "--plot_method=umap"], ["--no_plot"], ["--plot"]):
        assert main(command(embedding_dir, output_dir, *words)) == first
    assert drawn == ["pca", "umap", "pca"] and (output_dir / "clusters.png").exists()
    assert fingerprint(output_dir) == before  # routers and experts are not trained again


@pytest.mark.slow  # numba compiles for half a minute
def test_umap_reduces_and_plots(embedding_dir, tmp_path):
    given = ["--algorithm=hdbscan", "--reduce=umap", "--reduce_dim=3", "--plot_method=umap"]
    first = main(command(embedding_dir, tmp_path / "clusters", *given))
    assert first["agreement_nmi"]["group"] > 0.95 and (first["reduce"], first["reduced_dim"]) == ("umap", 3)
    assert (tmp_path / "clusters" / "clusters.png").stat().st_size > 10_000
    assert main(command(embedding_dir, tmp_path / "again", *given)) == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_experts", "500"], "more utterances than experts"),
        (["--algorithm", "dbscan"], "invalid choice: 'dbscan'"),
        (["--plot_method", "tsne"], "invalid choice: 'tsne'"),
        (["--num_expert", "3"], "did you mean --num_experts"),
        (
            ["--algorithm=hdbscan", "--min_cluster_size=60", "--max_retries=0"],
            "found no cluster with min_cluster_size 60",
        ),
        (["--algorithm=hdbscan", "--num_experts=9", "--no_reduce_experts"], "not the 9 of --num_experts"),
    ],
)
def test_mistakes_are_named_and_leave_no_result(embedding_dir, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        main(command(embedding_dir, tmp_path / "clusters", *flags))
    assert not (tmp_path / "clusters").exists()
