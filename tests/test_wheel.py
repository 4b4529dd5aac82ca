"""What an installed wheel needs beside its modules is in it: card templates, cards and requirements of the metrics."""

import json
import shutil
import subprocess
import sys

import pytest
from bare_python import bare_python, install
from paths import ROOT

pytestmark = pytest.mark.slow

SCRIPT = """
import json, pathlib, sys
from huggingface_hub import ModelCardData
import hf_components.publishing.hub
import dataset_scripts.prepared
from hf_components.publishing import cards
from hf_components.publishing.hub_files import files_of, kind_of

environment = pathlib.Path(sys.prefix)
assert environment in pathlib.Path(cards.__file__).parents, cards.__file__
metric = pathlib.Path(hf_components.__file__).parent / "metrics" / "whisper_wer"
shown = {"recipe": "x", "code_version": "1", "base_model": None, "title": "Tokenizer",
         "use": "Tokenizer", "own_code": False, "data": None, "figures": {"wer": 0.5}, "plots": [],
         "seconds": 60, "environment": {"gpu": None, "cpu_count": 2, "platform": "x86_64", "python": "3", "torch": "2",
                                       "transformers": "5", "accelerate": "1"}}
print(json.dumps({"templates": sorted(path.name for path in cards.TEMPLATES.iterdir()),
                  "sdk": kind_of(metric).sdk, "metric": sorted(files_of(metric, "apache-2.0", "user/metric")),
                  "rendered": cards.render_card("stage.md", shown, ModelCardData(license="mit"))}))
"""


def test_an_installed_wheel_makes_cards_and_publishes_metrics(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("hf_components", "dataset_scripts", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "-w",
            tmp_path,
            source,
        ],
        check=True,
    )
    python = bare_python(tmp_path / "environment")
    install(python, next(tmp_path.glob("underheard-*.whl")))
    ran = subprocess.run([python, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["templates"] == sorted(path.name for path in (ROOT / "model_cards").iterdir())
    assert said["sdk"] == "static" and "| wer | 0.5 |" in said["rendered"]
    assert {"README.md", "requirements.txt", "whisper_wer.py", "bootstrap.py", "counting.py"} <= set(said["metric"])
