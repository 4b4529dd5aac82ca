"""The scenarios in their smallest form, on a tiny recogniser that hears nothing: none of them may be released."""

import json

import pytest
from every_model import EVERY
from tiny_ctc import save_tiny_wav2vec2
from tiny_llm import save_tiny_llm

from benchmarks import gold_scenarios

pytestmark = pytest.mark.integration

PLAYED = ["two that write the same nonsense", "LLM that writes nothing", "LLM that knows the truth"]


def test_gold_scenarios(tmp_path):
    models = {
        "model": save_tiny_wav2vec2(tmp_path / "model"),
        "whisper": EVERY["hubert"](tmp_path / "whisper"),
        "llm": save_tiny_llm(tmp_path / "llm"),
    }
    words = [f"--{name}={path}" for name, path in models.items()]
    sizes = ["--speakers=1", "--utterances=10", "--epochs=1", "--gguf_file=", "--processes=1"]
    command = [f"--output_dir={tmp_path / 'out'}", *words, *sizes, "--only", *PLAYED]
    found = gold_scenarios.main(command)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    assert found["scenarios"] == 3 and found["harmful_releases"] == found["useful_releases"] == 0
    assert list(found["by_scenario"]) == PLAYED and len(gold_scenarios.SCENARIOS) == 20
    nonsense = found["by_scenario"]["two that write the same nonsense"]
    assert not nonsense["released"] and nonsense["reason"].startswith("nobody can vote with")
    told = found["by_scenario"]["LLM that writes nothing"]
    assert told["gold_wer"] > 0.8 and told["estimated_wer"] is None  # nobody else heard it
    assert gold_scenarios.main(command) == found  # finished ones are kept
