"""The stages of MoE-Whisper one by one, in-process, on a tiny model and tones; and what they say to users who err."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from paths import CONFIGS
from safetensors.torch import load_file
from tiny_speech import save_tiny_whisper, speaker_folder, tiny_whisper

from hf_components.checkpoints.loading import load_moe_whisper
from hf_components.moe.experts import load_router
from hf_components.runtime.errors import UserError
from hf_components.whisper.routed_lora import stock_weights
from recipes import (
    benchmark_asr,
    cluster_embeddings,
    extract_embeddings,
    prepare_corpus,
    pretrain_experts,
    pretrain_router,
    train_moe_whisper,
)

pytestmark = pytest.mark.integration

TRAINING = {
    "per_device_train_batch_size": 8,
    "report_to": "none",
    "full_context_fraction": 0,
    "logging_steps": 1,
    "use_cpu": True,
    "learning_rate": 1e-2,
    "max_new_tokens": 6,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A corpus of 24 utterances to train on and 12 to test on, and a Whisper of 60k parameters."""
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


def command(recipe, run: Path, output: str | Path, **flags) -> list[str]:
    """The command line of a stage, its inputs in the run folder; `output` below it."""
    name = recipe.__name__.rsplit(".", 1)[-1]
    inputs = {
        "extract_embeddings": {"corpus": "corpus", "model": "whisper"},
        "cluster_embeddings": {"embedding_dir": "embeddings"},
        "pretrain_router": {"embedding_dir": "embeddings", "labels_dir": "clusters"},
        "pretrain_experts": {"corpus": "corpus", "model": "whisper"},
        "train_moe_whisper": {
            "corpus": "corpus",
            "model": "whisper",
            "experts_dir": "experts",
            "router_dir": "router",
        },
        "benchmark_asr": {
            "corpus": "corpus",
            "base_model": "whisper",
            "moe_model": "joint/model",
            "single_lora_model": "single",
        },
    }[name]
    flags = {**{flag: run / path for flag, path in inputs.items()}, "output_dir": run / output, **flags}
    return ["--config", str(CONFIGS / name / "quick.yaml"), *(f"--{flag}={value}" for flag, value in flags.items())]


EMBED = {"batch_size": 5, "full_context_samples": 6}
CLUSTER = {"algorithm": "group", "reduce_dim": 4, "plot": False}
ROUTER = {"num_train_epochs": 20, "router_hidden_size": 8}
JOINT = {
    **TRAINING,
    "num_train_epochs": 2,
    "soft_routing_epochs": 1,
    "topk_routing_epochs": 0.5,
    "min_audio_context": 100,
}
BENCHMARK = {"max_samples": 7, "batch_size": 4, "max_new_tokens": 6, "num_bootstrap": 20}


@pytest.fixture(scope="module")
def embeddings(run):
    return extract_embeddings.main(command(extract_embeddings, run, "embeddings", **EMBED))


@pytest.fixture(scope="module")
def clusters(run, embeddings):
    return cluster_embeddings.main(command(cluster_embeddings, run, "clusters", **CLUSTER))


@pytest.fixture(scope="module")
def router(run, clusters):
    return pretrain_router.main(command(pretrain_router, run, "router", **ROUTER))


@pytest.fixture(scope="module")
def experts(run, router):
    return pretrain_experts.main(
        command(
            pretrain_experts,
            run,
            "experts",
            **TRAINING,
            labels_dir=run / "clusters",
            router_dir=run / "router",
            num_train_epochs=1,
            lora_rank=2,
        )
    )


@pytest.fixture(scope="module")
def single(run, router):
    return pretrain_experts.main(
        command(
            pretrain_experts, run, "single", **TRAINING, router_dir=run / "router", num_train_epochs=1, lora_rank=2
        )
    )


@pytest.fixture(scope="module")
def joint(run, experts):
    return train_moe_whisper.main(command(train_moe_whisper, run, "joint", **JOINT))


@pytest.fixture(scope="module")
def benchmark(run, joint, single):
    return benchmark_asr.main(command(benchmark_asr, run, "benchmark", **BENCHMARK))


def test_extract_embeddings(run, embeddings):
    assert embeddings == {"utterances": 36, "d_model": 16, "layer": 1}
    table = pyarrow.parquet.read_table(run / "embeddings" / "embeddings.parquet").to_pydict()
    assert table["split"].count("train") == 24 and table["split"].count("dev") == 12 and len(set(table["id"])) == 36
    full = pyarrow.parquet.read_table(run / "embeddings" / "full_context" / "embeddings.parquet").to_pydict()
    assert len(full["id"]) == 12 and set(full["id"]) < set(table["id"])
    row = table["id"].index(full["id"][0])
    assert not np.allclose(table["embedding"][row], full["embedding"][0])
    assert json.loads((run / "embeddings" / "embeddings.json").read_text())["audio_context"] == "dynamic"


def test_pretrain_router(run, router):
    assert router["train_dynamic_context"]["utterances"] == 24 and router["dev_full_context"]["utterances"] == 6
    history = [entry["train_kl"] for entry in json.loads((run / "router" / "history.json").read_text())]
    assert history[-1] < history[0] and len(history) == 20
    loaded, layer = load_router(run / "router")
    assert (layer, loaded.output.out_features, loaded.hidden.out_features) == (1, 3, 8)
    assert (run / "router" / "router.png").exists()


def test_pretrain_experts(run, experts, single):
    assert (experts["experts"], single["experts"], experts["steps"]) == (3, 1, 3)
    weights = load_file(run / "experts" / "experts.safetensors")
    assert all(".lora_" in name for name in weights)
    for name, value in weights.items():  # every expert and the shared one have learnt
        if name.endswith("lora_b"):
            assert value.shape[0] == 4 and value.flatten(1).abs().amax(1).min() > 0, name
    assert all(value.shape[0] == 1 for value in load_file(run / "single" / "experts.safetensors").values())
    assert {"history.json", "loss.png", "expert_0", "expert_2", "stage.json"} <= {
        p.name for p in (run / "experts").iterdir()
    }
    assert sorted(load_file(run / "experts" / "checkpoints" / "checkpoint-3" / "model.safetensors")) == sorted(weights)


def test_train_moe_whisper(run, joint):
    assert joint["routing"] == "hard" and joint["steps"] == 6 and sum(joint["usage"]) == pytest.approx(1, abs=1e-4)
    model, _ = load_moe_whisper(str(run / "joint" / "model"))
    config = model.config
    assert (config.routing, config.router_noise_std, config.min_expert_usage_fraction, config.min_audio_context) == (
        "hard",
        0.0,
        0.0,
        100,
    )
    model.unfold()  # the saved plain weights hold the shared expert
    weights = stock_weights(model)
    for name, value in tiny_whisper().state_dict().items():
        torch.testing.assert_close(weights[name], value, msg=name)
    before, after = load_file(run / "experts" / "experts.safetensors"), model.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    old = load_router(run / "router")[0].state_dict()
    moved = {name for name, value in old.items() if not torch.equal(after[f"model.encoder.router.{name}"], value)}
    assert moved == {"hidden.weight", "hidden.bias", "output.weight", "output.bias"}
    assert {"routing.png", "usage.png", "loss.png"} <= {path.name for path in (run / "joint").iterdir()}


def test_benchmark_asr(run, benchmark):
    assert list(benchmark["rows"]) == [
        "zero_shot",
        "single_lora",
        "moe_shared",
        "moe_top1",
        "moe_top2_weights",
        "moe_random",
        "moe_oracle",
    ]
    assert {row["utterances"] for row in benchmark["rows"].values()} == {7}
    assert benchmark["rows"]["zero_shot"]["audio_context"] == "30 s"
    assert (
        benchmark["rows"]["moe_top1"]["audio_context"] == benchmark["rows"]["single_lora"]["audio_context"] == ">= 1 s"
    )
    ids = json.loads(next(run.glob("benchmark_samples_dev_*_7_42.json")).read_text())["ids"]
    lines = [json.loads(line) for line in (run / "benchmark" / "transcripts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert len((run / "benchmark" / f"gating_{run.name}_topk2.jsonl").read_text().splitlines()) == 7


def test_a_second_benchmark_keeps_the_sample_and_adds_to_the_index(run, benchmark):
    index, sample = run / "benchmarks_index.jsonl", next(run.glob("benchmark_samples_dev_*_7_42.json"))
    before, ids = index.read_text(), sample.read_text()
    flags = {**BENCHMARK, "moe_mixture": "logits", "batch_size": 3}
    again = benchmark_asr.main(command(benchmark_asr, run, "second", **flags))
    assert sample.read_text() == ids and "moe_top2_logits" in again["rows"]
    assert index.read_text().startswith(before)
    last = json.loads(index.read_text().splitlines()[-1])
    assert (
        last["wer"]["moe_top2_logits"] == again["rows"]["moe_top2_logits"]["wer"] and last["sample"]["utterances"] == 7
    )
    assert again["rows"]["zero_shot"]["wer"] == benchmark["rows"]["zero_shot"]["wer"]


@pytest.mark.parametrize(
    ("recipe", "output", "flags"),
    [
        (extract_embeddings, "embeddings", EMBED),
        (pretrain_router, "router", ROUTER),
        (train_moe_whisper, "joint", JOINT),
        (benchmark_asr, "benchmark", BENCHMARK),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_resume_skips_what_is_complete(run, benchmark, monkeypatch, recipe, output, flags):
    metrics = json.loads((run / output / "stage.json").read_text())["metrics"]
    monkeypatch.setattr(recipe, "produce", None)  # calling it again would fail
    assert recipe.main([*command(recipe, run, output, **flags), "--resume"]) == metrics


def test_resume_continues_an_interrupted_training(run, joint, monkeypatch):
    flags = {**JOINT, "save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(train_moe_whisper, "save_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train_moe_whisper.main(command(train_moe_whisper, run, "again", **flags))
    work = run / ".again.partial"
    assert (work / "checkpoints" / "checkpoint-4" / "complete").exists() and not (run / "again").exists()
    (work / "checkpoints" / "checkpoint-6" / "complete").unlink()
    metrics = train_moe_whisper.main([*command(train_moe_whisper, run, "again", **flags), "--resume"])
    assert metrics == joint and not work.exists()
    one, other = (load_file(run / name / "model" / "model.safetensors") for name in ("joint", "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    configs = [json.loads((run / name / "model" / "config.json").read_text()) for name in ("joint", "again")]
    assert configs[0] == configs[1]


ERRORS = [
    (extract_embeddings, {"layer": 4}, r"--layer must lie in \[1, 3\]"),
    (extract_embeddings, {"corpus": "{run}/speakers"}, "is not a prepared corpus"),
    (extract_embeddings, {"model": "{run}/nowhere"}, "there is no folder"),
    (extract_embeddings, {"batch_sise": 4}, "did you mean --batch_size"),
    (pretrain_router, {"labels_dir": "{run}/embeddings"}, "takes the output folder of cluster_embeddings"),
    (pretrain_router, {"embedding_dir": "{run}/corpus"}, "takes the output folder of extract_embeddings"),
    (pretrain_experts, {"router_dir": "{run}/clusters"}, "takes the output folder of pretrain_router"),
    (pretrain_experts, {"lora_rank": 0}, "lora_rank"),
    (pretrain_experts, {"lora_rang": 4}, "did you mean --lora_rank"),
    (pretrain_experts, {"corpus": "{run}/speakers"}, "is not a prepared corpus"),
    (train_moe_whisper, {"experts_per_utterance": 4}, r"`experts_per_utterance` must lie in \[1, 3\], got 4"),
    (train_moe_whisper, {"moe_top_k": 0}, "--experts_per_utterance must be at least 1, got 0"),
    (
        pretrain_experts,
        {"label_smoothing_factor": "0.1"},
        "unknown argument '--label_smoothing_factor': the loss is .*; leave it out",
    ),
    (train_moe_whisper, {"experts_dir": "{run}/router"}, "give the output folder of pretrain_experts"),
    (
        train_moe_whisper,
        {"experts_dir": "{run}/single", "moe_top_k": 1},
        "chooses among 3 experts above layer 1, .* holds 1",
    ),
    (train_moe_whisper, {"min_expert_usage_fraction": 0.4}, "min_expert_usage_fraction must be below 1 / num_experts"),
    (train_moe_whisper, {"routing_temperature_start": 0}, "--routing_temperature_start must be above 0, got 0"),
    (train_moe_whisper, {"min_audio_context": 4000}, "min_audio_context"),
    (train_moe_whisper, {"mixture": "both"}, "invalid choice: 'both'"),
]


@pytest.mark.parametrize(("recipe", "flags", "message"), ERRORS)
def test_mistakes_are_named_and_leave_no_result(run, benchmark, tmp_path, recipe, flags, message):
    flags = {flag: str(value).format(run=run) for flag, value in flags.items()}
    with pytest.raises(UserError, match=message):
        recipe.main(command(recipe, run, tmp_path / "output", **flags))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "recipe", [extract_embeddings, pretrain_router, pretrain_experts, train_moe_whisper, benchmark_asr]
)
def test_unknown_keys_and_folders_that_cannot_be_written(run, benchmark, tmp_path, recipe):
    (tmp_path / "config.yaml").write_text("seeed: 3\n")
    with pytest.raises(UserError, match="unknown key 'seeed'; did you mean --seed?"):
        recipe.main([*command(recipe, run, tmp_path / "output")[2:], "--config", str(tmp_path / "config.yaml")])
    (tmp_path / "file").touch()  # root may write everywhere, but not below a file
    with pytest.raises(UserError, match=r"cannot write|must name a folder"):
        recipe.main(command(recipe, run, tmp_path / "file" / "output"))


def test_a_sample_of_another_corpus_is_refused(run, benchmark, tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps({"ids": ["unheard"]}))
    with pytest.raises(UserError, match="1 utterances that the corpus lacks, such as unheard"):
        benchmark_asr.main(command(benchmark_asr, run, tmp_path / "output", sample_file=tmp_path / "sample.json"))
