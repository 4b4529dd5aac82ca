"""A saved vocoder in a fresh process, from another directory, without this repository."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_units import IDENTITY
from tiny_vocoder import some_units, tiny_vocoder

pytestmark = pytest.mark.integration
ELSEWHERE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hf_components", "dataset_scripts", "recipes"):
            raise ModuleNotFoundError(f"No module named {name!r} (kept out by the test)")
sys.meta_path.insert(0, Absent())
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
torch.set_num_threads(1)
folder = sys.argv[1]
spoken = {}
for head in ("hifigan", "istft"):
    model = AutoModel.from_pretrained(f"{folder}/{head}", trust_remote_code=True)
    assert not model.training and type(model).__module__.startswith("transformers_modules")
    with torch.no_grad():
        spoken[head] = model(load_file(f"{folder}/units.safetensors")["units"])
    model.save_pretrained(f"{folder}/again_{head}")  # a user's own copy keeps its code
    model.require_units({**model.config.units})
save_file(spoken, f"{folder}/spoken.safetensors")
"""


def test_reloaded_elsewhere_speaks_the_same_bits(tmp_path):
    units, expected = some_units(2, 15), {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for head in ("hifigan", "istft"):
        model = tiny_vocoder(head)
        model.save_pretrained(tmp_path / head)
        with torch.no_grad():
            expected[head] = model(units)
    torch.set_num_threads(threads)
    save_file({"units": units}, tmp_path / "units.safetensors")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, tmp_path],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spoken = load_file(tmp_path / "spoken.safetensors")
    for head in expected:
        assert torch.equal(spoken[head], expected[head]), head
        assert (tmp_path / f"again_{head}" / "modeling_unit_hifigan.py").exists()


def test_discriminators_do_not_travel(tmp_path):
    model = tiny_vocoder("istft")
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "configuration_unit_hifigan.py",
        "modeling_unit_hifigan.py",
        "hifigan.py",
        "istft.py",
        "masking.py",
        "durations.py",
    }
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert not any("discriminator" in path.read_text() for path in tmp_path.glob("*.py"))
    assert model.config.from_pretrained(tmp_path).units == IDENTITY
