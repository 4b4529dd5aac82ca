"""The stage extract_embeddings: poolings, models by name, stops; and who refuses its results."""

import json
from pathlib import Path

import pytest
from make_corpus import damaged_copy
from paths import CONFIGS
from tiny_speech import save_tiny_whisper, speaker_folder

from hf_components.checkpoints.loading import load_whisper
from hf_components.moe import embedding
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from recipes import cluster_embeddings, extract_embeddings, prepare_corpus, pretrain_router

pytestmark = pytest.mark.integration

FILES = ("embeddings.parquet", "embeddings.json", "full_context/embeddings.parquet", "full_context/embeddings.json")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(embedding, "BATCHES_PER_SHARD", 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_tiny_whisper(folder / "whisper")
    prepare_corpus.main(
        [
            "--data_dir",
            str(speaker_folder(folder / "speakers")),
            "--output_dir",
            str(folder / "corpus"),
            "--num_proc",
            "1",
        ]
    )
    return folder


def command(run: Path, output_dir: Path, *more: str) -> list[str]:
    return [
        "--config",
        str(CONFIGS / "extract_embeddings" / "quick.yaml"),
        "--corpus",
        str(run / "corpus"),
        "--model",
        str(run / "whisper"),
        "--output_dir",
        str(output_dir),
        "--batch_size=3",
        "--full_context_samples=5",
        *more,
    ]


def contents(folder: Path) -> list[bytes]:
    return [(folder / file).read_bytes() for file in FILES]


def test_ends_with_one_line_and_nothing_but_the_result(run, tmp_path, capsys):
    metrics = extract_embeddings.main(command(run, tmp_path / "embeddings"))
    assert metrics == {"utterances": 36, "d_model": 16, "layer": 1}
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.startswith("36 utterances embedded by") and line.endswith("embeddings.parquet")
    found = {path.relative_to(tmp_path / "embeddings").as_posix() for path in (tmp_path / "embeddings").rglob("*")}
    assert found == {*FILES, "full_context", "stage.json"}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_row_stops_it_or_is_left_out(run, tmp_path, workers):
    name = load_corpus(run / "corpus", "train")["id"][2]
    words = [f"--corpus={damaged_copy(run / 'corpus', tmp_path / 'damaged', [name])}", f"--num_workers={workers}"]
    with pytest.raises(UserError, match=f"^{name}: truncated audio.* --unreadable_rows reject$"):
        extract_embeddings.main(command(run, tmp_path / "embeddings", *words))
    words.append("--unreadable_rows=reject")
    assert extract_embeddings.main(command(run, tmp_path / "embeddings", *words))["utterances"] == 35
    assert json.loads((tmp_path / "embeddings" / "rejected.jsonl").read_text())["id"] == name


@pytest.mark.parametrize("stop", [6, 15, 17])  # of 8 batches of train, 4 of dev, 4 at 30 s; then they are joined
def test_a_stopped_extraction_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch, stop):
    extract_embeddings.main(command(run, tmp_path / "whole"))
    calls = []

    def stopping(function):
        def call(*args):
            calls.append(args)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "embed_batch", stopping(embedding.embed_batch))
        patch.setattr(extract_embeddings, "join_shards", stopping(extract_embeddings.join_shards))
        with pytest.raises(KeyboardInterrupt):
            extract_embeddings.main(command(run, tmp_path / "stopped"))
    assert not (tmp_path / "stopped").exists()
    done = len(list((tmp_path / ".stopped.partial" / ".scratch").iterdir()))
    assert done == min(stop - 1, 16) // 2
    extract_embeddings.main(command(run, tmp_path / "stopped", "--resume"))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize(("name", "hub_id"), [("v2", "openai/whisper-large-v2"), ("v3", "openai/whisper-large-v3")])
def test_large_models_have_short_names(run, tmp_path, monkeypatch, name, hub_id, capsys):
    asked = []
    monkeypatch.setattr(
        extract_embeddings, "load_whisper", lambda model, _: asked.append(model) or load_whisper(str(run / "whisper"))
    )
    extract_embeddings.main(command(run, tmp_path / "embeddings", f"--model={name}"))
    assert asked == [hub_id] and f"by {hub_id} after layer 1" in capsys.readouterr().out
    monkeypatch.setattr(extract_embeddings, "load_whisper", None)  # the long name is the same model
    extract_embeddings.main(command(run, tmp_path / "embeddings", f"--model={hub_id}", "--resume"))


@pytest.mark.parametrize("pooling", ["flatten", "none"])
def test_other_poolings_are_for_clustering_at_most(run, tmp_path, pooling):
    extract_embeddings.main(command(run, tmp_path / "embeddings", f"--pooling={pooling}"))
    assert not (tmp_path / "embeddings" / "full_context").exists()
    cluster = [
        "--config",
        str(CONFIGS / "cluster_embeddings" / "quick.yaml"),
        "--embedding_dir",
        str(tmp_path / "embeddings"),
        "--output_dir",
        str(tmp_path / "clusters"),
        "--algorithm=group",
        "--no_plot",
    ]
    if pooling == "flatten":
        assert cluster_embeddings.main(cluster)["embeddings"]["pooling"] == "flatten"
    else:
        with pytest.raises(UserError, match="extracted with --pooling none, which cannot be used here"):
            cluster_embeddings.main(cluster)
        extract_embeddings.main(command(run, tmp_path / "mean"))
        cluster_embeddings.main([*cluster, "--embedding_dir", str(tmp_path / "mean")])
    with pytest.raises(UserError, match=f"extracted with --pooling {pooling}, .* extract them with --pooling mean$"):
        pretrain_router.main(
            [
                "--embedding_dir",
                str(tmp_path / "embeddings"),
                "--labels_dir",
                str(tmp_path / "clusters"),
                "--output_dir",
                str(tmp_path / "router"),
            ]
        )


def test_a_part_of_the_corpus(run, tmp_path):
    metrics = extract_embeddings.main(
        command(run, tmp_path / "embeddings", "--full_context_samples=0", '--data_config_override={"percent": 50}')
    )
    assert metrics["utterances"] == 18 and not (tmp_path / "embeddings" / "full_context").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pooling=max"], "invalid choice: 'max'"),
        (["--batch_size=0"], "--batch_size must be at least 1, got 0"),
        (["--full_context_samples=-1"], "--full_context_samples must be at least 0, got -1"),
    ],
)
def test_mistakes_are_named(run, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        extract_embeddings.main(command(run, tmp_path / "embeddings", *flags))
    assert not (tmp_path / "embeddings").exists()
