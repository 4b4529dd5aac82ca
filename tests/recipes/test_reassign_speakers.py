"""Experts by what a model gets wrong: gradients, their clusters, and speakers who move to the expert of least loss."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from make_corpus import add_speaker
from paths import CONFIGS
from tiny_speech import save_tiny_whisper

from hf_components.moe import embedding
from hf_components.moe.labels import load_labels
from hf_components.runtime.errors import UserError
from recipes import (
    cluster_embeddings,
    extract_embeddings,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    reassign_speakers,
)

pytestmark = pytest.mark.integration

TRAINING = {
    "per_device_train_batch_size": 8,
    "report_to": "none",
    "full_context_fraction": 0,
    "use_cpu": True,
    "learning_rate": 3e-2,
    "lora_dropout": 0,
    "lora_rank": 4,
    "time_masks": 0,
    "mel_masks": 0,
    "plot": False,
}
MOVED = "Train-a-0"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(embedding, "BATCHES_PER_SHARD", 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A corpus, clusters by group, and experts trained on them until they know their speakers by heart."""
    folder = tmp_path_factory.mktemp("run")
    save_tiny_whisper(folder / "whisper")
    words = [f"--data_dir={heard_alike(folder / 'speakers')}", f"--output_dir={folder / 'corpus'}", "--num_proc=1"]
    prepare_corpus.main(words)
    call(pretrain_experts, folder, "single", **TRAINING, num_train_epochs=2)
    call(extract_embeddings, folder, "embeddings", full_context_samples=3)
    call(cluster_embeddings, folder, "clusters", embedding_dir=folder / "embeddings", algorithm="group", plot=False)
    call(pretrain_experts, folder, "experts", **TRAINING, labels_dir=folder / "clusters", num_train_epochs=10)
    return folder


def heard_alike(root: Path) -> Path:
    """Noise, the same from everybody; three speakers to train on and one to test on say "a", as many say "z"."""
    for split, speakers in (("Train", 3), ("Dev", 1)):
        for letter in "az":
            for number in range(speakers):
                said = {f"{clip}.wav": letter * (1 + clip % 3) for clip in range(4)}
                add_speaker(root, split, f"{split}-{letter}-{number}", said, etiology=letter, seconds=0.5)
    return root


def call(recipe, run: Path, output: str | Path, **flags) -> dict:
    name = recipe.__name__.rsplit(".", 1)[-1]
    given = {} if recipe in (cluster_embeddings, pretrain_router) else {"corpus": "corpus", "model": "whisper"}
    flags = {**{flag: run / path for flag, path in given.items()}, "output_dir": run / output, **flags}
    config = CONFIGS / name / "quick.yaml"
    return recipe.main([f"--config={config}", *(f"--{flag}={value}" for flag, value in flags.items())])


def gradients(run: Path, output: str | Path, **flags) -> dict:
    lora = {"pooling": "gradient", "lora_model": run / "single", "gradient_dim": 32, "batch_size": 3}
    return call(extract_embeddings, run, output, **{**lora, **flags})


def reassigned(run: Path, output: str | Path, **flags) -> dict:
    inputs = {"experts_dir": run / "experts", "labels_dir": run / "clusters", "batch_size": 3}
    return call(reassign_speakers, run, output, **{**inputs, **flags})


def test_gradients_are_clustered_as_embeddings_are(run, capsys):
    assert gradients(run, "gradients") == {"utterances": 32, "d_model": 16, "layer": None}
    assert "with the LoRA in" in capsys.readouterr().out
    assert sorted(path.name for path in (run / "gradients").iterdir()) == [
        "embeddings.json",
        "embeddings.parquet",
        "stage.json",
    ]
    table = pyarrow.parquet.read_table(run / "gradients" / "embeddings.parquet").to_pydict()
    np.testing.assert_allclose(np.linalg.norm(table["embedding"], axis=1), 1, atol=1e-4)
    same = {"num_experts": 2, "cluster_by": "speaker", "plot": False, "reduce_dim": 4}
    summary = call(cluster_embeddings, run, "found", embedding_dir=run / "gradients", **same)
    assert summary["embeddings"]["pooling"] == "gradient" and summary["sizes"] == [12, 12]
    assert summary["agreement_nmi"]["group"] == pytest.approx(1)  # though all sound alike
    with pytest.raises(UserError, match="extracted with --pooling gradient, which cannot be used here"):
        call(pretrain_router, run, "router", embedding_dir=run / "gradients", labels_dir=run / "found")


def test_a_stopped_run_goes_on_to_the_same_bytes(run, monkeypatch):
    for recipe, make, part in (
        (extract_embeddings, gradients, "embeddings.parquet"),
        (reassign_speakers, reassigned, "losses/embeddings.parquet"),
    ):
        make(run, f"{make.__name__}_whole")
        calls = []

        def write_until_stopped(*args, calls=calls, write_part=embedding.write_part):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return write_part(*args)

        with monkeypatch.context() as patch:
            patch.setattr(embedding, "write_part", write_until_stopped)
            with pytest.raises(KeyboardInterrupt):
                make(run, f"{make.__name__}_stopped")
        stopped = run / f"{make.__name__}_stopped"
        assert not stopped.exists(), recipe
        make(run, stopped.name, resume=True)
        assert (stopped / part).read_bytes() == (run / f"{make.__name__}_whole" / part).read_bytes()


def test_a_speaker_who_was_put_wrongly_moves_back(run, capsys):
    labels = load_labels(run / "clusters")
    table = pyarrow.parquet.read_table(run / "clusters" / "labels.parquet").to_pydict()
    speakers = dict(zip(*(embeddings(run)[name] for name in ("id", "speaker_id")), strict=True))
    wrong = run / "wrong"
    wrong.mkdir()
    is_moved = [speakers[name] == MOVED for name in table["id"]]
    assert sum(is_moved) == 4
    table["label"] = [1 - label if moved else label for label, moved in zip(table["label"], is_moved, strict=True)]
    table["weights"] = np.eye(2, dtype=np.float32)[table["label"]].tolist()
    pyarrow.parquet.write_table(pyarrow.table(table), wrong / "labels.parquet")
    (wrong / "summary.json").write_text((run / "clusters" / "summary.json").read_text())

    summary = reassigned(run, "back", labels_dir=wrong)
    assert summary["reassigned"]["moved"] == 1 and summary["reassigned"]["speakers"] == 6
    assert "1 of 6 speakers moved" in capsys.readouterr().out
    found = load_labels(run / "back")
    train = [name for name, split in zip(table["id"], table["split"], strict=True) if split == "train"]
    assert (found.weights_of(train).argmax(1) == labels.weights_of(train).argmax(1)).all()
    assert summary == json.loads((run / "back" / "summary.json").read_text())
    assert sorted(path.name for path in (run / "back").iterdir()) == [
        "labels.parquet",
        "losses",
        "stage.json",
        "summary.json",
    ]
    # router and experts are trained on them as on those of cluster_embeddings
    call(pretrain_router, run, "router", embedding_dir=run / "embeddings", labels_dir=run / "back", num_train_epochs=2)
    again = call(pretrain_experts, run, "again", **TRAINING, labels_dir=run / "back", num_train_epochs=1)
    assert again["experts"] == 2


def embeddings(run: Path) -> dict:
    return pyarrow.parquet.read_table(run / "embeddings" / "embeddings.parquet").to_pydict()


@pytest.mark.parametrize(
    ("make", "flags", "message"),
    [
        (gradients, {"lora_model": ""}, "--pooling gradient needs --lora_model"),
        (gradients, {"lora_model": "experts"}, "gradients are taken at a single LoRA, .* holds several experts"),
        (reassigned, {"experts_dir": "single"}, "holds 1 experts, but the labels in .* are of 2; give the labels"),
        (reassigned, {"experts_dir": "corpus"}, "holds no experts.safetensors"),
        (reassigned, {"labels_dir": "corpus"}, "labels.parquet does not exist; --labels_dir takes"),
    ],
)
def test_mistakes_are_named(run, make, flags, message):
    flags = {flag: run / value if value else value for flag, value in flags.items()}
    with pytest.raises(UserError, match=message):
        make(run, "mistake", **flags)
    assert not (run / "mistake").exists()
