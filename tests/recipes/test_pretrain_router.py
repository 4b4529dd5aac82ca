"""The recipe pretrain_router on made-up embeddings of many speakers."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hf_components.moe import router as router_module
from hf_components.moe.experts import load_router
from hf_components.runtime.arguments import parse_arguments
from recipes import pretrain_experts, pretrain_router, train_moe_whisper

pytestmark = pytest.mark.integration
SPEAKERS = {"train": 30, "dev": 6}
EXPERTS, DIMENSION, UTTERANCES = 3, 8, 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Embeddings in both contexts and their labels; the speakers of an expert resemble each other."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    names = [(split, f"{split}-{i}", i % EXPERTS) for split, count in SPEAKERS.items() for i in range(count)]
    rows = [(f"{speaker}-{j}", split, speaker, expert) for split, speaker, expert in names for j in range(UTTERANCES)]
    ids, splits, speakers, experts = (list(column) for column in zip(*rows, strict=True))
    centres = 2 * rng.normal(size=(EXPERTS, DIMENSION))
    for context in ("", "full_context"):
        target = folder / "embeddings" / context
        target.mkdir()
        vectors = centres[experts] + rng.normal(size=(len(rows), DIMENSION))
        pyarrow.parquet.write_table(
            pyarrow.table(
                {
                    "id": ids,
                    "split": splits,
                    "speaker_id": speakers,
                    "group": ["all"] * len(rows),
                    "duration": [1.0] * len(rows),
                    "embedding": pyarrow.array(list(vectors.astype(np.float32)), pyarrow.list_(pyarrow.float32())),
                }
            ),
            target / "embeddings.parquet",
        )
        (target / "embeddings.json").write_text(json.dumps({"model": "whisper", "layer": 2, "pooling": "mean"}))
    weights = np.full((len(rows), EXPERTS), 0.1, np.float32)
    weights[np.arange(len(rows)), experts] = 0.8
    (folder / "clusters").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table(
            {
                "id": ids,
                "split": splits,
                "label": experts,
                "weights": pyarrow.array(list(weights), pyarrow.list_(pyarrow.float32())),
            }
        ),
        folder / "clusters" / "labels.parquet",
    )
    return folder


def command(inputs, out, *more: str) -> list[str]:
    return [
        "--embedding_dir",
        str(inputs / "embeddings"),
        "--labels_dir",
        str(inputs / "clusters"),
        "--output_dir",
        str(out),
        "--router_hidden_size=8",
        "--gating_batch_size=32",
        "--num_train_epochs=40",
        "--learning_rate=1e-2",
        "--early_stopping_patience=5",
        "--save_every_n_epochs=4",
        *more,
    ]


def test_what_a_router_leaves(inputs, tmp_path, capsys):
    metrics = pretrain_router.main(command(inputs, tmp_path / "router"))
    parts = {name: row["utterances"] for name, row in metrics.items() if name.endswith("_context")}
    assert parts == {
        f"{part}_{context}_context": speakers * UTTERANCES
        for context in ("dynamic", "full")
        for part, speakers in (("train", 27), ("train_held_out", 3), ("dev", 6))
    }
    assert len(metrics["held_out_speakers"]) == 3 and all(
        name.startswith("train-") for name in metrics["held_out_speakers"]
    )
    assert all(row["accuracy"] > 0.8 and row["ece"] < 0.3 for name, row in metrics.items() if name in parts)
    assert {path.name for path in (tmp_path / "router").iterdir()} == {
        "router.safetensors",
        "router.json",
        "history.json",
        "metrics.json",
        "router.png",
        "reliability.png",
        "checkpoints",
        "stage.json",
    }
    history = json.loads((tmp_path / "router" / "history.json").read_text())
    assert len(history) == metrics["epochs"] and metrics["best_epoch"] <= metrics["epochs"]
    assert {"train_kl", "validation_kl", "validation_accuracy", "learning_rate"} == history[0].keys()
    router, layer = load_router(tmp_path / "router")
    assert (layer, router.output.out_features) == (2, EXPERTS)
    table = capsys.readouterr().out
    assert (
        "ECE" in table
        and "train held out full" in table
        and f"{metrics['best_epoch']} of {metrics['epochs']}" in table
    )


def test_few_speakers_and_no_plots_until_asked_for(inputs, tmp_path, capsys, monkeypatch):
    metrics = pretrain_router.main(command(inputs, tmp_path / "router", "--validation_fraction=0.05", "--no_plot"))
    message = "early stopping needs 3 held-out speakers, but validation_fraction 0.05 of 30 speakers gives 1"
    assert message in capsys.readouterr().err
    assert metrics["epochs"] == metrics["best_epoch"] == 40 and metrics["held_out_speakers"] == []
    assert "train_held_out_dynamic_context" not in metrics
    assert not list((tmp_path / "router").glob("*.png"))
    monkeypatch.setattr(pretrain_router, "produce", None)  # calling it again would fail
    assert pretrain_router.main(command(inputs, tmp_path / "router", "--validation_fraction=0.05")) == metrics
    assert {path.name for path in (tmp_path / "router").glob("*.png")} == {"router.png", "reliability.png"}


def test_resume_continues_inside_the_stage(inputs, tmp_path, monkeypatch):
    whole = pretrain_router.main(command(inputs, tmp_path / "whole"))
    train_epoch, seen = router_module._train_epoch, []

    def die(*args, epoch):
        seen.append(epoch)
        if seen == [0, 1, 2, 3, 4, 5]:
            raise KeyboardInterrupt
        return train_epoch(*args, epoch=epoch)

    monkeypatch.setattr(router_module, "_train_epoch", die)
    with pytest.raises(KeyboardInterrupt):
        pretrain_router.main(command(inputs, tmp_path / "killed"))
    assert not (tmp_path / "killed").exists()
    resumed = pretrain_router.main(command(inputs, tmp_path / "killed", "--resume"))
    assert resumed == whole and seen == [*range(6), *range(4, whole["epochs"])]
    for file in ("router.safetensors", "history.json", "metrics.json", "router.png", "reliability.png"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.parametrize("recipe", [pretrain_experts, train_moe_whisper])
def test_later_stages_take_the_folder_as_gating_model_checkpoint(recipe):
    given = ["--corpus=x", "--output_dir=y", *(["--experts_dir=z"] if recipe is train_moe_whisper else [])]
    assert (
        parse_arguments(recipe.ARGUMENTS, [*given, "--gating_model_checkpoint=runs/router"])[0].router_dir
        == "runs/router"
    )
