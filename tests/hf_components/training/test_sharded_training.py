"""Two processes that shard (FSDP2 or ZeRO-2, over gloo) train as one process does, and resume as one does."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from every_model import EVERY, NEEDS_MISTRAL_COMMON, trainer_of
from paths import ROOT
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from sharded_processes import SYSTEMS, experts_trainer, mixture_trainer
from tiny_speech import gradient_of_one_step, tiny_whisper

from hf_components.asr import load_asr
from hf_components.moe.experts import load_trained_experts
from hf_components.runtime.errors import UserError
from hf_components.training.sharding import prepare_sharding, repeated_layers
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper import MoeWhisperForConditionalGeneration

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
ONLY_TRANSCRIBED = ("seamless", "seamless 2", "kyutai")
NOT_SHARDED = {
    "moonshine streaming": "model.encoder.embedder.comp.log_k",
    "two put together": "decoder.cls.predictions.decoder.bias",
}
CONFIGS = ("fsdp", pytest.param("deepspeed_zero2", marks=needs_deepspeed))


def launch(config: str, folder: Path, what: str, precision: str = "no") -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            ROOT / "accelerate_configs" / f"{config}.yaml",
            "--num_processes",
            "2",
            "--mixed_precision",
            precision,
            ROOT / "tests" / "support" / "sharded_processes.py",
            folder,
            what,
        ],
        check=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
def test_shards_give_the_gradient_of_one_process(tmp_path):
    launch("fsdp", tmp_path, "gradients")
    for routing, mixture in SYSTEMS:
        expected = gradient_of_one_step(tmp_path, 8, 1, routing=routing, mixture=mixture)
        actual = load_file(tmp_path / f"{routing}_{mixture}.safetensors")
        scale = max(float(gradient.abs().max()) for gradient in expected.values())
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, atol=2e-5 * scale, rtol=1e-3)


def compare_after_training(alone: SpeechTrainer, sharded: dict[str, torch.Tensor], names: list[str]) -> None:
    """Train in this process alone and hold the named weights against those that two processes came to."""
    before = {name: value.clone() for name, value in alone.model.state_dict().items()}
    alone.train()
    after = alone.model.state_dict()
    for name in names:
        torch.testing.assert_close(sharded[name], after[name], atol=1e-5, rtol=1e-4)
        if ".lora_" in name:  # what was learnt is far larger than the tolerance
            assert float((after[name] - before[name]).abs().max()) > 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_shards_train_evaluate_and_save_as_one_process_does(config, tmp_path):
    launch(config, tmp_path, "train")
    alone = experts_trainer(tmp_path, 8, use_cpu=True)
    actual = load_trained_experts(tiny_whisper(), tmp_path / "trained")
    compare_after_training(alone, actual.state_dict(), [name for name in actual.state_dict() if ".lora_" in name])

    alone = mixture_trainer(tmp_path, 8, use_cpu=True)
    before = {name: value.clone() for name, value in alone.model.state_dict().items()}
    alone.train()
    for name, value in alone.model.state_dict().items():
        if ".lora_" in name:  # what was learnt is far larger than the tolerance
            assert float((value - before[name]).abs().max()) > 1e-3, name
    alone.model.save_pretrained(tmp_path / "alone")  # saving folds the shared expert into the weights below it
    actual = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    expected = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path / "alone").state_dict()
    for name, value in actual.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    assert actual.config.routing == alone.model.config.routing == "hard"
    experts = MoeWhisperForConditionalGeneration.from_experts(tiny_whisper(), tmp_path / "experts")
    assert experts.config.num_experts == 3

    expected, actual = alone.evaluate(), json.loads((tmp_path / "metrics.json").read_text())
    for metrics in (expected, actual):
        metrics.pop("eval_runtime")
    assert actual == expected

    best = json.loads((tmp_path / "chosen.json").read_text())["checkpoint"]
    kept, chosen = load_file(tmp_path / "best.safetensors"), load_file(f"{best}/model.safetensors")
    assert kept.keys() == chosen.keys()
    for name, value in chosen.items():
        assert torch.equal(kept[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_shards_resume_with_the_same_bits(config, tmp_path):
    launch(config, tmp_path, "resume")
    whole, resumed = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "resumed.safetensors")
    assert not any("lora_b" in name and not value.any() for name, value in whole.items())
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    names = {path.name for path in (tmp_path / "killed" / "checkpoint-5").iterdir()}
    assert {"model.safetensors", "scheduler.pt", "complete"} <= names
    assert "pytorch_model_fsdp.bin" not in names  # `Trainer`'s copy of the whole model, frozen weights included


SHARDED_ALIKE = sorted(set(EVERY) - set(ONLY_TRANSCRIBED) - set(NEEDS_MISTRAL_COMMON) - set(NOT_SHARDED))


def distance(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    assert weights.keys() == others.keys()
    return sum(float((others[name] - value).double().square().sum()) for name, value in weights.items()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "precision", "tolerance"),
    [("fsdp", "no", 5e-3), ("fsdp", "bf16", 0.8), pytest.param("deepspeed_zero2", "no", 5e-3, marks=needs_deepspeed)],
)
def test_shards_of_every_family_train_as_one_process_does(config, precision, tolerance, tmp_path):
    """Also those whose layers accelerate does not find by itself, whose encoder it takes for a norm, and so on."""
    names = [name for name in SHARDED_ALIKE if precision == "no" or name != "speecht5"]  # which needs float32
    for name in names:
        EVERY[name](tmp_path / "base" / name)
    launch(config, tmp_path, "families", precision)
    apart = {}
    for name in names:
        alone = trainer_of(tmp_path / "base" / name, tmp_path, max_steps=2)
        before = {key: value.clone() for key, value in alone.model.state_dict().items()}
        alone.train()
        after = alone.model.state_dict()
        moved = distance(before, after)
        assert moved > 1e-3
        apart[name] = distance(load_file(tmp_path / f"{name}.safetensors"), after) / moved
    assert max(apart.values()) < tolerance, apart


@pytest.mark.integration
@pytest.mark.parametrize(("name", "weight"), NOT_SHARDED.items())
def test_weights_that_cannot_be_divided_are_named(name, weight, tmp_path):
    EVERY[name](tmp_path / "model")
    model = load_asr(str(tmp_path / "model"))[0]
    plugin = FullyShardedDataParallelPlugin(**RIGHT)
    with pytest.raises(UserError, match=rf"must have an axis and one place, unlike {weight}; .*multi_gpu\.yaml"):
        prepare_sharding(accelerator(DistributedType.FSDP, fsdp_plugin=plugin), model)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["whisper", "whisper ctc", "wav2vec2", "hubert", "parakeet tdt", "granite"])
def test_layers_to_divide_are_found(name, tmp_path):
    """Also where `_no_split_modules` names none, or some that are not there; all families are in the slow test."""
    EVERY[name](tmp_path / "model")
    model = load_asr(str(tmp_path / "model"))[0]
    layers = repeated_layers(model)
    parts = [part for part in model.modules() if type(part).__name__ in layers]
    assert any("attn" in key or "attention" in key for part in parts for key, _ in part.named_parameters())
    assert "Linear" not in layers and "ModuleList" not in layers


MODEL = tiny_whisper()
RIGHT = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT", "cpu_ram_efficient_loading": False}


def accelerator(kind: DistributedType, **plugins) -> SimpleNamespace:
    return SimpleNamespace(distributed_type=kind, state=SimpleNamespace(**plugins))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("fsdp_version", {"fsdp_version": 1}),
        ("fsdp_state_dict_type", {"state_dict_type": "SHARDED_STATE_DICT"}),
        ("fsdp_cpu_ram_efficient_loading", {"cpu_ram_efficient_loading": True}),
    ],
)
def test_other_ways_of_sharding_are_refused(name, option):
    prepare_sharding(accelerator(DistributedType.FSDP, fsdp_plugin=FullyShardedDataParallelPlugin(**RIGHT)), MODEL)
    plugin = FullyShardedDataParallelPlugin(**{**RIGHT, **option})
    with pytest.raises(UserError, match=rf"^{name} must be .*, got .*fsdp\.yaml"):
        prepare_sharding(accelerator(DistributedType.FSDP, fsdp_plugin=plugin), MODEL)


@pytest.mark.unit
def test_a_lora_of_peft_is_not_sharded():
    plugin = FullyShardedDataParallelPlugin(**RIGHT)
    lora = get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))
    with pytest.raises(UserError, match="sharded training does not support a LoRA"):
        prepare_sharding(accelerator(DistributedType.FSDP, fsdp_plugin=plugin), lora)


@pytest.mark.unit
def test_zero_3_is_refused():
    with pytest.raises(UserError, match=r"zero_stage must be at most 2, got 3.*fsdp\.yaml"):
        prepare_sharding(accelerator(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=3)), MODEL)


@pytest.mark.unit
def test_losses_and_sums_of_gradients_stay_float32():
    plugin = FullyShardedDataParallelPlugin(**RIGHT)
    plugin.set_mixed_precision("bf16")
    prepare_sharding(accelerator(DistributedType.FSDP, fsdp_plugin=plugin), MODEL)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)
