"""Habits of other Hugging Face scripts, in the recipes themselves: understood, or answered with the right flag."""

import importlib

import pytest
from paths import ROOT

from hf_components.runtime.arguments import check_words
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

PIPELINES = sorted(path.stem for path in (ROOT / "recipes").glob("run_*_pipeline.py"))


def said(recipe: str, word: str) -> str:
    """What a recipe says to a flag; nothing if it takes it."""
    module = importlib.import_module(f"recipes.{recipe}")
    try:
        if recipe in PIPELINES:
            module.main([word, "--data=user/corpus", "--output_dir=out", "--dry_run"])
        else:
            check_words(getattr(module, "ARGUMENTS", None) or module.Arguments, [word])
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("recipe", "word", "answer"),
    [
        (
            "run_moe_pipeline",
            "--eval_steps=9",
            "--stage_options pretrain_experts.eval_steps=VALUE or train_moe_whisper.",
        ),
        ("run_moe_pipeline", "--per_device_train_batch_size=9", "use --expert_batch_size or --asr_batch_size"),
        ("run_moe_pipeline", "--epochs=3", "--shared_epochs, --expert_epochs, --joint_epochs"),
        ("run_moe_pipeline", "--learning_rate=1e-5", "--expert_learning_rate, --single_lora_learning_rate"),
        ("run_moe_pipeline", "--lr=1e-5", "--expert_learning_rate, --single_lora_learning_rate"),
        ("run_moe_pipeline", "--num_beams=1", "use --benchmark_num_beams"),
        ("run_children_pipeline", "--report_to=wandb", "--stage_options finetune_whisper.report_to=VALUE"),
        ("segment_audio", "--max_duration=9", "use --max_segment"),
        ("segment_audio", "--input_dir=x", ""),
        ("transcribe", "--per_device_eval_batch_size=9", "use --batch_seconds"),
        ("transcribe", "--output_dir=x", "name a file: --output_jsonl"),
        ("finetune_whisper", "--torch_dtype=float16", "use --bf16, --fp16 or --no_fp16"),
        ("finetune_whisper", "--lora_r=9", ""),
        ("finetune_whisper", "--warmup_ratio=0.1", "use --warmup_steps"),
    ],
)
def test_habits_are_answered_with_the_right_flag(recipe, word, answer):
    text = said(recipe, word)
    assert answer in text and bool(answer) == bool(text)


@pytest.mark.parametrize("recipe", PIPELINES)
@pytest.mark.parametrize("word", ["--gradient_checkpointing", "--max_steps=9", "--warmup_steps=9", "--report_to=none"])
def test_no_pipeline_guesses_at_a_flag_of_its_steps(recipe, word):
    text = said(recipe, word)
    assert "did you mean" not in text
