"""docs/from_the_originals.md names every word of the original guides, and says what is true here."""

import re
import subprocess

import pytest
from paths import ROOT
from test_consistency import arguments

from hf_components.runtime import UserError
from hf_components.runtime.arguments import check_words

pytestmark = pytest.mark.unit
PAGE = ROOT / "docs" / "from_the_originals.md"
# Flags, keys and files of the five guides, as they are written there.
MOE = """
--mode --seed --resume --no-plot --dataset-root --data-percent --clustering-algorithm --num-experts --min-clusters
--min-cluster-size --min-samples --metric --allow-single-cluster --no-reduce-experts --min-experts --max-retries
--gating-batch-size --expert-batch-size --asr-batch-size --num-workers --fp16 --no-fp16 --gradient-accumulation-steps
--eval-every-n-epochs --save-every-n-epochs --benchmark-split --benchmark-percent --benchmark-max-samples
--benchmark-batch-size --benchmark-top-k --benchmark-seed --log-file --whisper-model --pooling --reduce --reduce-dim
--plot-method --hdbscan-algorithm --algorithm --embedding-dir --output-dir --plot --models --output --gating-output
--moe-top-k --moe-mixture
dataloader_config.json sampling percent max_samples seed gating_model_config.json input_dim hidden_dim num_experts
batch_size epochs learning_rate expert_pre_training.json gating_model_checkpoint data_config_override fp16
gradient_accumulation_steps asr_training.json top_k_experts load_balance_coef soft_routing_epochs topk_routing_epochs
routing_temperature_start routing_temperature_end routing_temperature_min router_noise_std routing_alignment_coef
routing_entropy_coef min_expert_usage_fraction save_every_epoch save_every_n_epochs rebase_output_dir
benchmark_<run_id>_top1.json benchmark_<run_id>_topkK.json gating_<run_id>_top1.jsonl gating_<run_id>_topkK.jsonl
benchmarks_index.jsonl benchmark_samples_<dataset>_...json mapping.json *.npy Spectral.json Spectral_soft.json
spectral_umap.png best.pt gating_pretrain_config.json best.json gating_model.pt expert_* training.log metrics.json
"""
CHILDREN = """
--config --debug --force-restart --model-path --input-jsonl --output-jsonl --val-manifest
name variant pretrained freeze_encoder gradient_checkpointing train_manifest audio_dirs val_ratio stratify_by
batch_size gradient_accumulation_steps fp16 learning_rate warmup_steps val_manifest EnglishTextNormalizer
pod_train.sh pod_tensorboard.sh scripts/predict.py scripts/evaluate.py runs
"""
WAV2VEC2 = """
--audio_dir --output_dir --num_epochs --batch_size --learning_rate --use_lora --no_lora --lora_rank --lora_alpha
evaluation_results.json lora_adapters logs test_llm_connection.py fast_mode
"""
UNITS = """
--epochs --batch-size --patience --min-delta --num-samples lr samples_per_epoch save_every vocab_size
scripts/segment_audio.py upload_to_modal.py phase1_acoustic.py phase2_bpe.py phase3_vocoder.py vocoder_test.py
portuguese_kmeans.pkl portuguese_corpus_timestamped.json all_units_for_bpe.txt checkpoint.json processed_files.txt
portuguese_bpe.model portuguese_bpe.vocab motif_analysis.json vocoder_final.pt vocoder_latest.pt vocoder_epoch_XXXX.pt
sample_epoch_XXXX.wav training_log.json orig_0000.wav synth_0000.wav SNR MCD
"""
SECTIONS = {"MoE-Whisper": MOE, "Children's Whisper": CHILDREN, "wav2vec2": WAV2VEC2, "Acoustic units": UNITS}


def rows() -> list[tuple[str, str, str, str]]:
    """Section, and the code in the first two columns, with the third, of every row."""
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title = section.split("\n")[0]
        for there, here, differs in re.findall(r"^\| `(.+?)` \| `(.+?)` \| (.*)\|$", section, re.MULTILINE):
            found.append((title, there, here, differs))
    return found


ROWS = rows()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_word_of_the_guides_is_there(section):
    words = {there for title, there, _, _ in ROWS if title == section}
    assert not set(SECTIONS[section].split()) - words


def test_every_row_is_read():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS) > 150


def flags_of(recipe: str) -> set[str]:
    return set(check_words(arguments(recipe), []))


@pytest.mark.parametrize(("there", "here"), sorted({(there, here) for _, there, here, _ in ROWS}))
def test_what_is_named_here_exists(there, here):
    recipe, _, flag = here.rpartition(" ") if " --" in here else (here, "", "")
    if here.startswith("--"):  # of the pipeline
        recipe, flag = "benchmark_asr.py" if here == "--sample_file" else "run_moe_pipeline.py", here
    if recipe.startswith("launchers/"):
        assert (ROOT / recipe).exists()
    elif recipe.endswith(".py"):
        assert (ROOT / "recipes" / recipe).exists()
        assert flag == "--config" or flag[2:] in flags_of(recipe.removesuffix(".py"))
    else:  # a file that something writes
        sources = ["hf_components", "recipes"]
        name = here.removesuffix("_0")
        assert not subprocess.run(["grep", "-rqF", "--include=*.py", name, *sources], cwd=ROOT, check=False).returncode


@pytest.mark.parametrize(("there", "here", "differs"), sorted({row[1:] for row in ROWS if row[1].startswith("--")}))
def test_a_flag_of_the_guides_is_taken_or_answered(there, here, differs):
    recipe = here.split(" ")[0] if " --" in here else "run_moe_pipeline.py"
    if recipe.startswith("launchers/") or there == "--config":
        return
    try:
        check_words(arguments(recipe.removesuffix(".py")), [there])
    except (UserError, SystemExit) as error:
        if "unknown argument" in str(error):
            assert "did you mean" not in str(error) and "--help lists" not in str(error)


@pytest.mark.parametrize(
    ("there", "here"), sorted({row[1:3] for row in ROWS if row[1].isidentifier() and " --" in row[2]})
)
def test_a_key_of_the_guides_is_taken_or_answered(there, here, tmp_path):
    (tmp_path / "their.yaml").write_text(f"{there}: 1\n")
    recipe = here.split(" ")[0].removesuffix(".py")
    if recipe in ("evaluate_vocoder", "evaluate_asr") or there in ("logs", "runs"):
        return  # words of their guides that are no keys
    try:
        check_words(arguments(recipe), ["--config", str(tmp_path / "their.yaml")])
    except UserError as error:
        if "unknown key" in str(error):
            assert "did you mean" not in str(error) and "--help lists" not in str(error)


THEIR_CHILDREN = """
model: {name: whisper, variant: small, pretrained: openai/whisper-small, freeze_encoder: false}
data: {train_manifest: train.jsonl, audio_dirs: [audio_0, audio_1], val_ratio: 0.1, stratify_by: age_bucket}
training: {batch_size: 12, gradient_accumulation_steps: 3, fp16: true, learning_rate: 1e-5, warmup_steps: 500}
"""


def test_the_configuration_of_the_children_guide_is_read_as_it_is(tmp_path, caplog):
    (tmp_path / "baseline.yaml").write_text(THEIR_CHILDREN)
    values = check_words(arguments("finetune_whisper"), ["--config", str(tmp_path / "baseline.yaml")])
    assert values["model"] == "openai/whisper-small" and values["per_device_train_batch_size"] == 12
    assert values["audio_dirs"] == ["audio_0", "audio_1"] and values["warmup_steps"] == 500 and values["fp16"]
    assert "the key name is not needed" in caplog.text
