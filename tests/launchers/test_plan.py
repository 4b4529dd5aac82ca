"""The plan of a pipeline names its trainings, and how much memory each of them will take."""

import re

import pytest
from tiny_audio_llms import save_glm_asr
from tiny_ctc import save_tiny_wav2vec2
from tiny_whisper import tiny_base
from transformers import LlamaConfig

from hf_components.checkpoints import language_models
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


def test_wav2vec2_and_the_llm_that_corrects(tmp_path, capsys, monkeypatch):
    save_tiny_wav2vec2(tmp_path / "model")
    # 0.5 GiB of embeddings and output in half precision
    LlamaConfig(vocab_size=2**21, hidden_size=64, num_hidden_layers=1).save_pretrained(tmp_path / "llm")
    monkeypatch.setattr(language_models, "is_bitsandbytes_available", lambda: True)
    words = ["--plan", "run_wav2vec2_pipeline", f"--model={tmp_path / 'model'}", f"--llm_model={tmp_path / 'llm'}"]
    assert doctor.main(words) == 0
    _, training, correction = capsys.readouterr().out.splitlines()
    assert training.startswith("finetuned: a LoRA of rank 8, batch 4, bf16: ")
    assert correction == f"correction: {tmp_path / 'llm'} in 4 bits: 0.5 GiB for its weights"
    assert doctor.main([*words, "--quantization=none", "--llm_dtype=float32"]) == 0
    assert capsys.readouterr().out.endswith("llm: 1.0 GiB for its weights\n")
    assert doctor.main([*words, "--gold=stt", "--train_on=all"]) == 0
    assert "correction" not in capsys.readouterr().out


def test_an_llm_that_hears_is_not_predicted(tmp_path, capsys):
    save_tiny_wav2vec2(tmp_path / "model")
    save_glm_asr(tmp_path / "llm")
    words = ["--plan", "run_wav2vec2_pipeline", f"--model={tmp_path / 'model'}", f"--llm_model={tmp_path / 'llm'}"]
    assert doctor.main(words) == 0
    assert "llm cannot be predicted, as it takes audio" in capsys.readouterr().out


def test_mistakes_are_named(model, capsys):
    assert doctor.main(["--plan", "run_moe_pipeline", f"--model={model}", "--no_such_flag=1"]) == 2
    assert "no_such_flag" in capsys.readouterr().out
