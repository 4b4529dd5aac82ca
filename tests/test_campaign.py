"""A small part of the fault campaign, as its page has it: `make campaign` goes on for as long as it is asked to."""

import json
import subprocess
import sys

import pytest
from paths import ROOT

# Recipes of a second each that read each other's results.
RECIPES = ["prepare_corpus", "extract_embeddings", "cluster_embeddings", "pretrain_router"]


@pytest.mark.integration
def test_no_fault_ends_in_anything_but_the_same_bits_or_a_refusal(tmp_path):
    asked = {"kills": 3, "power_cuts": 3, "bit_flips": 8, "mutations": 100}
    words = [f"--{kind}={count}" for kind, count in asked.items()]
    command = [sys.executable, ROOT / "tests" / "campaign.py", *words, "--seed=3", f"--output_dir={tmp_path}"]
    done = subprocess.run([*command, "--recipes", *RECIPES], capture_output=True, text=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["others"] == [] and results["other"] == 0 and done.returncode == 0, done.stderr[-2000:]
    assert {kind: sum(counts.values()) for kind, counts in results["by_fault"].items()} == asked
    assert results["same_bits"] + results["refused"] == sum(asked.values())
    assert results["seed"] == 3
    # The faults strike: some damage is refused, and what is killed goes on to the same bits.
    assert results["by_fault"]["bit_flips"]["refused"] > 0 and results["by_fault"]["mutations"]["refused"] > 0
    assert results["by_fault"]["kills"]["same_bits"] > 0
