"""The stage cluster_embeddings, in-process on synthetic embeddings."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hf_components.errors import UserError
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
    pyarrow.parquet.write_table(pyarrow.table({
        "id": [f"u{i}" for i in range(120)], "split": np.where(speaker == 4, "dev", "train"),
        "speaker_id": [f"{g}-{s}" for g, s in zip(group, speaker, strict=True)],
        "group": np.array(["adult", "child", "digits", "studio"])[group], "duration": rng.uniform(1, 9, 120),
        "embedding": list((3 * rng.normal(size=(4, 24))[group] + rng.normal(size=(120, 24))).astype(np.float32)),
    }), folder / "embeddings.parquet")
    (folder / "embeddings.json").write_text(json.dumps({"model": "tiny", "layer": 2, "pooling": "mean"}))
    return folder


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize("algorithm", ["spectral", "group"])
def test_writes_labels_summary_and_plot(embedding_dir, tmp_path, algorithm, capsys):
    output_dir = tmp_path / "clusters"
    summary = main(["--config", QUICK, "--embedding_dir", str(embedding_dir), "--output_dir", str(output_dir),
                    "--algorithm", algorithm])
    rows = pyarrow.parquet.read_table(output_dir / "labels.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"u{i}" for i in range(120)]
    assert all(np.argmax(row["weights"]) == row["label"] for row in rows)
    assert len({(int(row["id"][1:]) % 4, row["label"]) for row in rows}) == 4  # groups and clusters are one to one
    assert json.loads((output_dir / "summary.json").read_text()) == summary
    assert summary["splits"]["dev"]["per_expert"] == [6, 6, 6, 6]
    assert (output_dir / "clusters.png").stat().st_size > 10_000
    assert "NMI with group 1.00" in capsys.readouterr().out


def test_resume_and_no_plot(embedding_dir, tmp_path, monkeypatch):
    output_dir = tmp_path / "clusters"
    argv = ["--config", QUICK, "--embedding_dir", str(embedding_dir), "--output_dir", str(output_dir), "--no_plot"]
    first = main(argv)
    assert not (output_dir / "clusters.png").exists()
    monkeypatch.setattr("recipes.cluster_embeddings.cluster", None)  # calling it again would fail
    assert main([*argv, "--resume"]) == first


def test_tsne_plot(embedding_dir, tmp_path):
    main(["--config", QUICK, "--embedding_dir", str(embedding_dir), "--output_dir", str(tmp_path / "clusters"),
          "--plot_method", "tsne"])
    assert (tmp_path / "clusters" / "clusters.png").exists()


@pytest.mark.parametrize(("flags", "message"), [
    (["--num_experts", "500"], "more utterances than experts"),
    (["--algorithm", "hdbscan"], "invalid choice: 'hdbscan'"),
    (["--num_expert", "3"], "did you mean --num_experts"),
])
def test_mistakes_are_named_and_leave_no_result(embedding_dir, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        main(["--config", QUICK, "--embedding_dir", str(embedding_dir), "--output_dir", str(tmp_path / "clusters"), *flags])
    assert not (tmp_path / "clusters").exists()
