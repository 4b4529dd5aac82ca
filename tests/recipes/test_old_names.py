"""Flags by the names that they had before: on the command line and in a configuration file."""

import dataclasses
import importlib

import pytest

from hf_components.runtime.arguments import check_words, parse_arguments
from hf_components.runtime.errors import UserError
from recipes import extract_embeddings, run_moe_pipeline

pytestmark = pytest.mark.unit

OLD_NAMES = {  # of a recipe: old name -> field
    "average_checkpoints": {"base_model": "model"},
    "benchmark_asr": {
        "moe_dir": "moe_model",
        "soup_dir": "soup_model",
        "single_lora_dir": "single_lora_model",
        "single_lora_wide_dir": "single_lora_wide_model",
        "full_dir": "full_model",
    },
    "build_concordance": {"corpus_dir": "corpus"},
    "check_llm": {"llm": "llm_model"},
    "distil_moe_whisper": {"base_model": "model", "moe_dir": "teacher_model"},
    "evaluate_asr": {"model_path": "model"},
    "evaluate_vocoder": {
        "corpus_dir": "corpus",
        "vocoder": "vocoder_model",
        "recogniser": "recogniser_model",
        "num_samples": "max_samples",
    },
    "export_ctranslate2": {"check_clips": "max_samples"},
    "extract_embeddings": {"whisper_model": "model"},
    "finetune_wav2vec2_lora": {"llm": "llm_model"},
    "finetune_whisper": {"base_model": "model"},
    "learn_units": {"corpus_dir": "corpus", "encoder": "model"},
    "merge_moe_whisper": {"moe_dir": "model"},
    "pack_submission": {"model_path": "model", "clips": "max_samples", "utterances": "test_utterances"},
    "pretrain_experts": {"base_model": "model", "single_lora_dir": "lora_model"},
    "run_children_pipeline": {"utterances": "test_utterances"},
    "run_moe_pipeline": {"whisper_model": "embedding_model"},
    "run_units_pipeline": {"recogniser": "recogniser_model", "num_samples": "max_samples"},
    "run_wav2vec2_pipeline": {"llm": "llm_model"},
    "speak_units": {"vocoder": "vocoder_model"},
    "sweep_units": {"corpus_dir": "corpus", "encoder": "model", "max_segments": "max_samples"},
    "train_moe_whisper": {"base_model": "model"},
    "train_unit_vocoder": {"corpus_dir": "corpus", "num_samples": "max_samples"},
    "transcribe": {"model_path": "model"},
}


@pytest.mark.parametrize("in_file", [False, True], ids=["flag", "key"])
@pytest.mark.parametrize(
    ("recipe", "old", "field"), [(recipe, *pair) for recipe, names in OLD_NAMES.items() for pair in names.items()]
)
def test_an_old_name_still_sets_its_flag(tmp_path, recipe, old, field, in_file):
    module = importlib.import_module(f"recipes.{recipe}")
    kinds = vars(module).get("ARGUMENTS") or (module.Arguments,)
    required = [
        f"--{option.name}=x"
        for kind in kinds
        for option in dataclasses.fields(kind)
        if option.init and option.default is option.default_factory is dataclasses.MISSING and option.name != field
    ]
    (tmp_path / "old.yaml").write_text(f"{old}: 7\n")
    found = parse_arguments(kinds, [*required, f"--config={tmp_path / 'old.yaml'}" if in_file else f"--{old}=7"])
    assert [str(vars(part)[field]) for part in found if field in vars(part)] == ["7"]


@pytest.mark.parametrize(
    ("recipe", "words", "answer"),
    [
        ("cluster_embeddings", "--plot umap", "--plot takes no method; use --plot_method umap"),
        ("cluster_embeddings", "--plot=PCA", "--plot takes no method; use --plot_method pca"),
        ("cluster_embeddings", "--pooling none", "recipes/extract_embeddings.py --pooling does that before"),
        ("run_moe_pipeline", "--pooling none", "--pooling none keeps every frame, .* use mean, .* or flatten"),
        ("run_moe_pipeline", "--plot umap", "plots are drawn unless --no_plot is given; --plot_method pca or umap"),
        ("train_moe_whisper", "--plot umap", "argument --plot: Truthy value expected"),  # it has no --plot_method
    ],
)
def test_values_of_the_original_scripts_are_answered(recipe, words, answer):
    module = importlib.import_module(f"recipes.{recipe}")
    kinds = vars(module).get("ARGUMENTS") or (module.Arguments,)
    with pytest.raises(UserError, match=answer):
        check_words(kinds, words.split())


def test_values_that_a_recipe_takes_are_taken(tmp_path):
    (tmp_path / "config.yaml").write_text("pooling: none\n")
    for words in (["--pooling", "none"], [f"--config={tmp_path / 'config.yaml'}"]):
        assert check_words((extract_embeddings.Arguments,), words)["pooling"] == "none"
    with pytest.raises(UserError, match="--pooling none keeps every frame"):
        check_words(run_moe_pipeline.ARGUMENTS, [f"--config={tmp_path / 'config.yaml'}"])
