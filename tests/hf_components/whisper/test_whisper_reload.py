"""A saved model in a fresh process, from another directory, without this repository."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from tiny_whisper import WINDOW, noise, one_hot, speech, tiny_moe
from transformers import WhisperProcessor

from hf_components.whisper import MoeWhisperForConditionalGeneration

TINY_EN = ROOT / "models" / "whisper-tiny.en"
WITHOUT_REPOSITORY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hf_components", "dataset_scripts", "recipes"):
            raise ModuleNotFoundError(f"No module named {name!r} (kept out by the test)")
sys.meta_path.insert(0, Absent())
"""


def run_elsewhere(script: str, folder: Path, *arguments) -> str:
    (folder / "elsewhere").mkdir(exist_ok=True)
    environment = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_REPOSITORY + script, *map(str, arguments)],
        cwd=folder / "elsewhere",
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.integration
def test_reloaded_elsewhere_gives_the_same_logits(tmp_path):
    model = tiny_moe(routing="soft", mixture="logits", shared_expert=True)
    model.save_pretrained(tmp_path / "model")
    ids = torch.tensor([[91, 5, 7]]).repeat(2, 1)
    save_file(
        {"features": noise(2, WINDOW), "ids": ids, "weights": one_hot(2, 2).contiguous()},
        tmp_path / "inputs.safetensors",
    )
    run_elsewhere(
        """
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq
folder = sys.argv[1]
model = AutoModelForSpeechSeq2Seq.from_pretrained(f"{folder}/model", trust_remote_code=True)
assert not model.training and type(model).__module__.startswith("transformers_modules")
x = load_file(f"{folder}/inputs.safetensors")
with torch.no_grad():
    routed = model(x["features"], decoder_input_ids=x["ids"])
    given = model(x["features"], decoder_input_ids=x["ids"], expert_weights=x["weights"])
generated = model.generate(x["features"], num_beams=2, max_new_tokens=6)
model.save_pretrained(f"{folder}/again")  # a user's own copy keeps its code
save_file({"routed": routed.logits, "given": given.logits, "gates": routed.gates, "generated": generated},
          f"{folder}/outputs.safetensors")
""",
        tmp_path,
        tmp_path,
    )
    outputs = load_file(tmp_path / "outputs.safetensors")
    with torch.no_grad():
        routed = model(noise(2, WINDOW), decoder_input_ids=ids)
        given = model(noise(2, WINDOW), decoder_input_ids=ids, expert_weights=one_hot(2, 2))
    torch.testing.assert_close(outputs["routed"], routed.logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(outputs["given"], given.logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(outputs["gates"], routed.gates, atol=1e-6, rtol=1e-6)
    assert torch.equal(outputs["generated"], model.generate(noise(2, WINDOW), num_beams=2, max_new_tokens=6))
    assert (tmp_path / "again" / "modeling_moe_whisper.py").exists()


@pytest.mark.integration
def test_checkpoints_of_two_versions_in_folders_of_one_name_have_each_their_own_code(tmp_path):
    for version in ("old", "new"):
        tiny_moe().save_pretrained(tmp_path / version / "model")
    router = tmp_path / "new" / "model" / "router.py"
    router.write_text(router.read_text() + "\nVERSION = 2\n")
    said = run_elsewhere(
        """
from transformers import AutoModelForSpeechSeq2Seq
for version in ("old", "new", "old"):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(f"{sys.argv[1]}/{version}/model", trust_remote_code=True)
    code = sys.modules[type(model).__module__.replace("modeling_moe_whisper", "router")]
    print(version, getattr(code, "VERSION", 1))
""",
        tmp_path,
        tmp_path,
    )
    assert said.split() == ["old", "1", "new", "2", "old", "1"]


@pytest.mark.slow
def test_pipeline_elsewhere(tmp_path):
    if not TINY_EN.is_dir():
        pytest.skip("models/whisper-tiny.en is absent; `make recipe-moe` imports it")
    model = MoeWhisperForConditionalGeneration.from_base(TINY_EN, routing="soft", mixture="logits", num_experts=2)
    model.save_pretrained(tmp_path / "model")
    WhisperProcessor.from_pretrained(TINY_EN).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "speech.npy", speech(3))
    text = run_elsewhere(
        """
import numpy
from transformers import pipeline
folder = sys.argv[1]
recognise = pipeline("automatic-speech-recognition", model=f"{folder}/model", trust_remote_code=True)
assert type(recognise.model).__name__ == "MoeWhisperForConditionalGeneration" and recognise.type == "seq2seq_whisper"
audio = numpy.load(f"{folder}/speech.npy")
print(recognise(audio, generate_kwargs={"max_new_tokens": 8})["text"])
print(recognise([audio, audio[:16000]], batch_size=2, return_timestamps=True, generate_kwargs={"max_new_tokens": 8}))
""",
        tmp_path,
        tmp_path,
    )
    assert text.strip()
