"""`--push_to_hub` of the recipes over real HTTP: what is pushed, what a failure costs, and where the token is not."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bare_python import bare_python
from hub_server import TOKEN, USER
from huggingface_hub import HfApi, ModelCard
from make_corpus import children_corpus
from paths import CONFIGS, ROOT
from safetensors.torch import load_file, save_file
from test_run_moe_pipeline import SMALL
from tiny_speech import save_tiny_whisper, speaker_folder, tiny_processor, tone

from hf_components.runtime.completion import read_completion
from hf_components.runtime.errors import UserError
from hf_components.whisper import MoeWhisperForConditionalGeneration
from recipes import average_checkpoints, finetune_whisper, prepare_corpus, publish

pytestmark = pytest.mark.integration


def push_to(name: str) -> list[str]:
    return ["--push_to_hub", "--hub_model_id", f"{USER}/{name}"]


def prepared(folder: Path, *more: str) -> Path:
    children_corpus(folder / "source", children=4)
    prepare_corpus.main(
        [
            "--config",
            str(CONFIGS / "prepare_corpus" / "quick.yaml"),
            "--builder=jsonl_manifest",
            "--val_ratio=0.5",
            "--data_dir",
            str(folder / "source"),
            "--output_dir",
            str(folder / "corpus"),
            *more,
        ]
    )
    return folder / "corpus"


def finetune(folder: Path, corpus: Path, *more: str) -> dict:
    return finetune_whisper.main(
        [
            "--config",
            str(CONFIGS / "finetune_whisper" / "quick.yaml"),
            "--corpus",
            str(corpus),
            "--model",
            str(folder / "whisper"),
            "--output_dir",
            str(folder / "finetuned"),
            "--num_train_epochs=1",
            "--full_context_fraction=0",
            "--report_to=none",
            "--max_new_tokens=6",
            *more,
        ]
    )


def everything(folder: Path) -> bytes:
    return b"\n".join(str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_corpus_adapter_and_model_go_up(hub, tmp_path):
    save_tiny_whisper(tmp_path / "whisper")
    corpus = prepared(tmp_path, *push_to("corpus"))
    there = hub.files(f"{USER}/corpus", "datasets")
    assert HfApi().dataset_info(f"{USER}/corpus").private
    local = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.is_file()}
    assert there.keys() == local - {"stage.json"}

    finetune(tmp_path, corpus, "--finetuning=lora", "--lora_rank=2", *push_to("adapter"), "--model_license=mit")
    there = hub.files(f"{USER}/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "results.json"} <= set(there)
    assert ModelCard(there["README.md"].decode()).data.library_name == "peft"
    assert ModelCard(there["README.md"].decode()).data.license == "mit"

    average_checkpoints.main(
        [
            "--candidates",
            str(tmp_path / "whisper"),
            str(tmp_path / "finetuned" / "model"),
            "--corpus",
            str(corpus),
            "--output_dir",
            str(tmp_path / "soup"),
            "--method=uniform",
            "--max_samples=2",
            "--max_new_tokens=6",
            *push_to("soup"),
        ]
    )
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(hub.files(f"{USER}/soup"))
    published = b"".join(
        content
        for name, kind in (("corpus", "datasets"), ("adapter", "models"), ("soup", "models"))
        for content in hub.files(f"{USER}/{name}", kind).values()
    )
    assert TOKEN.encode() not in published + everything(tmp_path)
    assert str(tmp_path).encode() not in published


def test_a_failed_push_costs_nothing_but_the_push(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_components.publishing.hub.time.sleep", lambda seconds: None)
    save_tiny_whisper(tmp_path / "whisper")
    corpus = prepared(tmp_path)
    hub.expire()
    with pytest.raises(UserError, match="is complete, but was not published.*repeat it with") as error:
        finetune(tmp_path, corpus, *push_to("model"))
    completion = read_completion(tmp_path / "finetuned")
    assert completion["metrics"]["steps"] > 0 and (tmp_path / "finetuned" / "model" / "model.safetensors").exists()
    hub.recover()
    publish.main(shlex.split(str(error.value).split("recipes/publish.py ")[1]))
    sent = [record for record in hub.asked("P") if " /objects/" in record.request or "/commit/" in record.request]
    finetune(tmp_path, corpus, *push_to("model"))  # the same command again: nothing is trained, nothing is sent
    assert read_completion(tmp_path / "finetuned") == completion
    assert sent == [
        record for record in hub.asked("P") if " /objects/" in record.request or "/commit/" in record.request
    ]
    assert len(HfApi().list_repo_commits(f"{USER}/model")) == 2


def test_a_missing_token_is_told_before_the_work(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token of the Hub"):
        finetune(tmp_path, tmp_path / "none", *push_to("model"))
    assert not (tmp_path / "finetuned").exists()


PULL = """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq
model = AutoModelForSpeechSeq2Seq.from_pretrained({repo!r}, revision={revision!r}, trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**load_file({inputs!r}), decoder_input_ids=torch.tensor([[1, 2, 3]])).logits
save_file({{"logits": logits}}, "heard.safetensors")
"""


@pytest.mark.slow
def test_a_whole_pipeline_is_pushed_and_pulled_and_the_token_is_nowhere(hub, tmp_path):
    data, whisper, home = (
        speaker_folder(tmp_path / "speakers"),
        save_tiny_whisper(tmp_path / "whisper"),
        tmp_path / "home",
    )
    out, log = tmp_path / "run", tmp_path / "run.log"
    environment = {
        **hub.environment(home),
        "UNDERHEARD_LOG_LEVEL": "DEBUG",
        "HF_HUB_VERBOSITY": "debug",
        "HF_DEBUG": "1",
    }
    hub.drop("PUT /objects/*", after=100)
    hub.fail("POST */commit/*", status=503)
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "recipes" / "run_moe_pipeline.py"),
            "--config",
            str(CONFIGS / "run_moe_pipeline" / "quick.yaml"),
            "--data",
            str(data),
            "--model",
            str(whisper),
            "--output_dir",
            str(out),
            "--log_file",
            str(log),
            *SMALL,
            "--ship=moe",  # with code of its own and experts
            *push_to("moe"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    there = hub.files(f"{USER}/moe")
    assert {
        "README.md",
        "results.json",
        "config.json",
        "model.safetensors",
        "plots/wer_per_group.png",
        "modeling_moe_whisper.py",
        "experts/expert_0/adapter_config.json",
    } <= set(there)
    assert (
        json.loads(there["results.json"])["benchmark"] == json.loads((out / "results.json").read_text())["benchmark"]
    )
    for text in (ran.stdout.encode(), ran.stderr.encode(), everything(tmp_path), b"".join(there.values())):
        assert TOKEN.encode() not in text
    assert not [name for name, content in there.items() if str(tmp_path).encode() in content or "tfevents" in name]

    heard = tiny_processor()(tone(0, 0, 1.0), sampling_rate=16_000, return_tensors="pt").input_features
    save_file({"input_features": heard}, tmp_path / "inputs.safetensors")
    model = MoeWhisperForConditionalGeneration.from_pretrained(out / "model").eval()
    with torch.no_grad():
        expected = model(input_features=heard, decoder_input_ids=torch.tensor([[1, 2, 3]])).logits
    out.rename(tmp_path / "away")
    stranger = bare_python(tmp_path / "stranger")
    (tmp_path / "elsewhere").mkdir()
    pulled = subprocess.run(
        [
            stranger,
            "-c",
            PULL.format(
                repo=f"{USER}/moe",
                revision=HfApi().model_info(f"{USER}/moe").sha,
                inputs=str(tmp_path / "inputs.safetensors"),
            ),
        ],
        cwd=tmp_path / "elsewhere",
        env=hub.environment(tmp_path / "other_home"),
        capture_output=True,
        text=True,
    )
    assert pulled.returncode == 0, pulled.stderr
    assert torch.equal(load_file(tmp_path / "elsewhere" / "heard.safetensors")["logits"], expected)
