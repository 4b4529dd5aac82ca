"""What goes into a package, what cannot, and the package as a process of its own, under both series of
transformers."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load
from tiny_speech import rows, save_multilingual_whisper, save_tiny_whisper, tiny_moe, tiny_processor, tiny_whisper

from hf_components.asr.packing import estimated_seconds, load_packable, run_package, write_package
from hf_components.checkpoints.loading import save_processor
from hf_components.runtime.errors import UserError

PYTHON_4 = "UNDERHEARD_TRANSFORMERS_4_PYTHON"  # an interpreter that has transformers 4.57, torch and soundfile
LOADS = """
import sys, transformers
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, WhisperForConditionalGeneration
folder = sys.argv[1]
model, loading = WhisperForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
assert not any(loading.values()), loading
for kind in AutoProcessor, AutoTokenizer, AutoFeatureExtractor:
    kind.from_pretrained(folder)
print(transformers.__version__)
"""


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return str(save_tiny_whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A Whisper that is told its language and its task."""
    return str(save_multilingual_whisper(tmp_path_factory.mktemp("multilingual")))


def content(file, name: str) -> bytes:
    with zipfile.ZipFile(file) as package:
        return package.read(name)


@pytest.mark.unit
def test_holds_main_at_its_root_and_the_weights_in_half(whisper, tmp_path):
    transcriber = load_packable(whisper, "en", None, 7)
    write_package(tmp_path / "a.zip", transcriber, torch.float16)
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert {"main.py", "model/config.json", "model/model.safetensors", "model/tokenizer.json"} <= set(names)
    assert all(name == "main.py" or name.startswith("model/") for name in names)
    assert json.loads(content(tmp_path / "a.zip", "model/generation_config.json"))["max_new_tokens"] == 7
    packed, original = load(content(tmp_path / "a.zip", "model/model.safetensors")), tiny_whisper().state_dict()
    assert all(torch.equal(value, original[name].half()) for name, value in packed.items())
    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip"]


@pytest.mark.unit
def test_what_a_kill_has_left_is_neither_packed_nor_kept(whisper, tmp_path):
    (tmp_path / "a.packing" / "model").mkdir(parents=True)
    (tmp_path / "a.packing" / "model" / "old.bin").write_bytes(b"old")
    write_package(tmp_path / "a.zip", load_packable(whisper, "en", None, 7), torch.float16)
    assert "model/old.bin" not in zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.zip"]


@pytest.mark.unit
def test_an_adapter_is_merged(whisper, tmp_path):
    model = get_peft_model(tiny_whisper(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    write_package(tmp_path / "a.zip", load_packable(whisper, "en", str(tmp_path / "adapter"), 7), torch.float32)
    expected = PeftModel.from_pretrained(tiny_whisper(), tmp_path / "adapter").merge_and_unload().state_dict()
    packed = load(content(tmp_path / "a.zip", "model/model.safetensors"))
    assert all(torch.equal(value, expected[name]) for name, value in packed.items())


@pytest.mark.unit
def test_the_language_of_the_checkpoint_is_packed(tmp_path):
    write_package(
        tmp_path / "a.zip",
        load_packable(str(save_multilingual_whisper(tmp_path / "base", "de")), None, None, 7),
        torch.float32,
    )
    assert json.loads(content(tmp_path / "a.zip", "model/generation_config.json"))["language"] == "de"


@pytest.mark.unit
def test_what_main_cannot_run_is_refused(tmp_path):
    tiny_moe().save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    with pytest.raises(UserError, match="mixes experts, but a plain Whisper is needed; recipes/merge_moe_whisper.py"):
        load_packable(str(tmp_path), "en", None, 7)


@pytest.mark.unit
def test_estimate_goes_by_utterances_else_by_hours():
    report = {"utterances": 10, "audio_seconds": 30.0, "loading_seconds": 5.0, "transcribing_seconds": 20.0}
    assert estimated_seconds(report, utterances=1000, hours=None) == 5 + 100 * 20
    assert estimated_seconds(report, utterances=1000, hours=9) == 5 + 100 * 20
    assert estimated_seconds(report, utterances=None, hours=0.5) == 5 + 60 * 20
    assert estimated_seconds(report, utterances=None, hours=None) is None


@pytest.mark.unit
def test_a_package_that_fails_is_told_with_its_last_words(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as package:
        package.writestr("main.py", "raise SystemExit('no such luck')")
    with pytest.raises(UserError, match="fails in its own process, with exit code 1; it ended with:") as told:
        run_package(tmp_path / "a.zip", rows(1))
    assert "no such luck" in told.value.details


def pythons() -> list:
    other = os.environ.get(PYTHON_4)
    absent = pytest.mark.skip(reason=f"{PYTHON_4} names no interpreter with transformers 4.57")
    return [
        pytest.param(sys.executable, id="transformers 5"),
        pytest.param(other, id="transformers 4.57", marks=[] if other else absent),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_runs_as_a_process_of_its_own(multilingual, tmp_path, python):
    transcriber = load_packable(multilingual, "en", None, 8)
    assert transcriber.model.generation_config.language == "en"
    expected = [transcript.text for transcript in transcriber.transcribe_corpus(rows(6))]
    write_package(tmp_path / "a.zip", transcriber, torch.float32)
    texts, report = run_package(tmp_path / "a.zip", rows(6), python)
    assert texts == expected and len(set(texts)) > 1
    assert (report["utterances"], report["unreadable"]) == (6, 0)


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_a_saved_checkpoint_loads_as_stock(whisper, python):
    done = subprocess.run([python, "-c", LOADS, whisper], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("5." if python == sys.executable else "4.57")
