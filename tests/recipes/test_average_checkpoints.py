"""`recipes/average_checkpoints.py` on finished models, on a fine-tuning of a LoRA, and on adapters; joint trainings of
a mixture are in test_moe_exports.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from every_model import EVERY
from paths import CONFIGS
from peft import PeftModel
from safetensors.torch import load_file
from tiny_speech import save_multilingual_whisper, save_tiny_whisper, speaker_folder, tiny_whisper
from transformers import WhisperForConditionalGeneration

from hf_components.asr import Transcriber, load_asr
from hf_components.checkpoints.loading import load_whisper
from hf_components.runtime.errors import UserError
from recipes import average_checkpoints, finetune_asr, finetune_whisper, prepare_corpus

pytestmark = pytest.mark.integration

QUICK = CONFIGS / "average_checkpoints" / "quick.yaml"
FINETUNING = {
    "finetuning": "lora",
    "lora_rank": 2,
    "per_device_train_batch_size": 8,
    "report_to": "none",
    "use_cpu": True,
    "num_train_epochs": 2,
    "max_new_tokens": 6,
    "learning_rate": 1e-2,
    "plot": False,
    "full_context_fraction": 0,
}
DECODING = {"max_samples": 3, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A corpus, two Whispers, and the fine-tuning of a LoRA with its two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    for seed in range(2):
        save_tiny_whisper(folder / f"whisper_{seed}", seed=seed)
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
    finetune_whisper.main(
        words(corpus=folder / "corpus", model=folder / "whisper_0", output_dir=folder / "lora", **FINETUNING)
    )
    return folder


def words(*others: object, **flags: object) -> list[str]:
    return [*(f"--{name}={value}" for name, value in flags.items()), *map(str, others)]


def soup(run: Path, output: Path, *candidates: Path, **flags: object) -> dict:
    return average_checkpoints.main(
        words(
            "--candidates", *candidates, config=QUICK, corpus=run / "corpus", output_dir=output, **(DECODING | flags)
        )
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return WhisperForConditionalGeneration.from_pretrained(folder).state_dict()


def test_models_are_averaged(run, tmp_path):
    candidates = [run / "whisper_0", run / "whisper_1"]
    metrics = soup(run, tmp_path / "out", *candidates, method="uniform")
    zero, one = map(weights, candidates)
    for name, value in weights(tmp_path / "out" / "model").items():
        torch.testing.assert_close(value, (zero[name] + one[name]) / 2, msg=name)
    assert metrics["chosen"] == metrics["candidates"] == [str(path) for path in candidates]
    assert metrics["against_last"]["wer_b"] == metrics["wer"]


@pytest.mark.parametrize(("family", "finetuning"), [("moonshine", "full"), ("hubert", "lora"), ("qwen3-asr", "lora")])
def test_checkpoints_of_any_family_are_averaged(run, tmp_path, family, finetuning):
    base = EVERY[family](tmp_path / "base")
    flags = {**FINETUNING, "finetuning": finetuning, "lora_rank": None if finetuning == "full" else 2}
    flags = {name: value for name, value in flags.items() if value is not None and name != "full_context_fraction"}
    finetune_asr.main(words(corpus=run / "corpus", model=base, output_dir=tmp_path / "run", **flags))
    soup(run, tmp_path / "out", tmp_path / "run", method="uniform")
    averaged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    kept = [load_file(path) for path in sorted((tmp_path / "run" / "checkpoints").glob("*/model.safetensors"))]
    assert len(kept) == 2 and averaged.keys() == load_file(base / "model.safetensors").keys()
    if finetuning == "full":
        for name in averaged.keys() & kept[0].keys():
            torch.testing.assert_close(averaged[name], (kept[0][name] + kept[1][name]) / 2)
    else:
        adapted = Transcriber.from_pretrained(base, adapter=tmp_path / "out" / "adapter").model.state_dict()
        for name, value in load_asr(str(tmp_path / "out" / "model"))[0].state_dict().items():
            torch.testing.assert_close(value, adapted[name], atol=1e-5, rtol=1e-4)


def test_checkpoints_of_a_lora_are_averaged_as_merged_models(run, tmp_path):
    metrics = soup(run, tmp_path / "out", run / "lora", method="uniform")
    checkpoints = sorted((run / "lora" / "checkpoints").glob("checkpoint-*"))
    assert len(metrics["chosen"]) == len(checkpoints) == 2
    base, expected = tiny_whisper().state_dict(), {}
    for name in base:  # W + alpha / rank mean(B A)
        layer = name.removesuffix(".weight")
        loras = [load_file(folder / "model.safetensors") for folder in checkpoints]
        if f"{layer}.lora_A.default.weight" in loras[0]:
            products = [
                lora[f"{layer}.lora_B.default.weight"] @ lora[f"{layer}.lora_A.default.weight"] for lora in loras
            ]
            assert not torch.equal(*products)
            expected[name] = base[name] + 16 / 2 * sum(products) / 2
    assert expected
    merged = PeftModel.from_pretrained(tiny_whisper(), tmp_path / "out" / "adapter").merge_and_unload().state_dict()
    for name, value in weights(tmp_path / "out" / "model").items():
        torch.testing.assert_close(value, expected.get(name, base[name]), msg=name)
        torch.testing.assert_close(value, merged[name], msg=name)


def test_products_of_loras_are_averaged_and_cut_to_a_rank(run, tmp_path):
    adapters = [run / "lora", run / "lora"]
    with pytest.raises(UserError, match="each candidate counts once"):
        soup(run, tmp_path / "out", *adapters, method="lora_products")
    adapters[1] = shutil.copytree(run / "lora" / "adapter", tmp_path / "copy")
    metrics = soup(run, tmp_path / "out", *adapters, method="lora_products", rank=2, model=run / "whisper_0")
    assert metrics["chosen"] == [str(path) for path in adapters]
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 2
    unscored = soup(run, tmp_path / "quiet", *adapters, method="lora_products", model=run / "whisper_0", max_samples=0)
    assert unscored["chosen"] == metrics["chosen"] and "wer" not in unscored
    assert (tmp_path / "quiet" / "model" / "config.json").exists()
    with pytest.raises(UserError, match="--method greedy needs utterances to score on"):
        soup(run, tmp_path / "greedy", *adapters, max_samples=0)
    with pytest.raises(UserError, match="--method lora_products averages LoRAs"):
        soup(run, tmp_path / "out", run / "whisper_0", run / "whisper_1", method="lora_products")


def test_the_audio_context_and_the_language_of_a_lora_run_are_kept(run, tmp_path):
    finetune_whisper.main(
        words(
            corpus=run / "corpus",
            model=save_multilingual_whisper(tmp_path / "base"),
            language="de",
            output_dir=tmp_path / "lora",
            **FINETUNING,
        )
    )
    soup(run, tmp_path / "out", tmp_path / "lora")
    (trained, _), (found, _) = (load_whisper(str(tmp_path / name / "model")) for name in ("lora", "out"))
    assert found.audio_context == trained.audio_context == "dynamic"
    assert found.min_audio_context == trained.min_audio_context > 0
    assert found.generation_config.language == trained.generation_config.language == "de"


@pytest.mark.parametrize("name", ["finetune_whisper", "train_moe_whisper"])
def test_trainings_keep_enough_checkpoints_for_a_soup(name):
    for file in (QUICK.parents[1] / name).glob("*.yaml"):
        settings = yaml.safe_load(file.read_text())
        assert settings.get("training", settings)["save_total_limit"] == 4, file


def test_adapters_are_averaged_on_the_model_that_is_given(run, tmp_path):
    soup(run, tmp_path / "first", run / "lora", method="uniform")
    adapters = [run / "lora" / "adapter", tmp_path / "first" / "adapter"]
    metrics = soup(run, tmp_path / "out", *adapters, model=run / "whisper_0")
    assert metrics["selected_on"] == "dev" and len(metrics["candidate_wer"]) == 2
    assert metrics["wer"] <= min(metrics["candidate_wer"].values())
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(UserError, match="holds an adapter; --candidates takes the output folder"):
        soup(run, tmp_path / "out", run / "whisper_0", run / "lora" / "adapter")
    with pytest.raises(UserError, match="nowhere holds no model"):
        soup(run, tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
