"""Two processes over gloo train as one does, and resume as one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file
from tiny_ctc import ctc_gradient_of_one_step
from tiny_speech import gradient_near_base, gradient_of_one_step, regularised_gradient

pytestmark = pytest.mark.slow


def launch(folder: Path, what: str) -> None:
    subprocess.run(
        [
            Path(sys.executable).with_name("accelerate"),
            "launch",
            "--config_file",
            ROOT / "accelerate_configs" / "multi_cpu.yaml",
            ROOT / "tests" / "support" / "two_processes.py",
            folder,
            what,
        ],
        check=True,
        cwd=ROOT,
        timeout=300,
    )


def assert_equal(file: Path, expected: dict[str, torch.Tensor]) -> None:
    actual, scale = load_file(file), max(float(gradient.abs().max()) for gradient in expected.values())
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=2e-5 * scale, rtol=1e-3)


def test_two_processes_give_the_gradient_of_one(tmp_path):
    launch(tmp_path, "gradients")
    for routing, mixture in ((None, "weights"), ("soft", "weights"), ("top_k", "logits")):
        expected = gradient_of_one_step(tmp_path, 8, 1, routing=routing, mixture=mixture)
        for split in ("4x1", "2x2"):
            assert_equal(tmp_path / f"{routing}_{mixture}_{split}.safetensors", expected)
    assert_equal(tmp_path / "near_base.safetensors", gradient_near_base(tmp_path, 8, 1))
    options = {"l2_to_start": 0.5, "consistency_coef": 2.0, "time_masks": 2, "moved": True}
    assert_equal(tmp_path / "regularised.safetensors", regularised_gradient(tmp_path, 8, 1, **options))
    assert_equal(tmp_path / "ctc.safetensors", ctc_gradient_of_one_step(tmp_path, 8, 1))


def test_two_processes_resume_with_the_same_bits(tmp_path):
    launch(tmp_path, "resume")
    whole, resumed = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "resumed.safetensors")
    assert not any("lora_b" in name and not value.any() for name, value in whole.items())
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
