"""The plan of a pipeline names its trainings, and how much memory each of them will take."""

import re

import pytest
from tiny_whisper import tiny_base

from launchers import doctor

pytestmark = pytest.mark.integration


@pytest.fixture
def model(tmp_path):
    tiny_base().config.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_trainings_of_the_mixture(model, capsys):
    words = ["--plan", "run_moe_pipeline", f"--model={model}", "--asr_batch_size=3", "--shared_runs=2"]
    assert doctor.main([*words, "--stage_options=train_moe_whisper.gradient_checkpointing=true"]) == 0
    first, *trainings = capsys.readouterr().out.splitlines()
    assert "8, 16, 24, 80 GB" in first
    what = [re.sub(r": \d+\.\d GiB; largest batch (\d+(, )?){4}$", "", line) for line in trainings]
    assert what == [
        "shared, shared_1, single_lora, shared_2: a LoRA of rank 16, batch 16, bf16",
        "experts: 8 experts and a shared one of rank 32, batch 16, bf16",
        "joint: 8 experts and a shared one of rank 32 and a router, batch 3, bf16, gradient checkpointing",
    ]


def test_fine_tuning(model, capsys):
    assert doctor.main(["--plan", "run_children_pipeline", f"--model={model}"]) == 0
    assert "finetuned: all weights, batch 12, bf16, gradient checkpointing: " in capsys.readouterr().out


def test_mistakes_are_named(model, capsys):
    assert doctor.main(["--plan", "run_moe_pipeline", f"--model={model}", "--no_such_flag=1"]) == 2
    assert "no_such_flag" in capsys.readouterr().out
