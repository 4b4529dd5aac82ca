"""transformers' own tests of Whisper, run on our models: all pass but those that cannot, each with its reason.

The tests are not in the package. Give a checkout of the repository, near the version that is installed, and install
`parameterized`:

    UNDERHEARD_TRANSFORMERS_TESTS=~/transformers python -m pytest -m slow THIS_FILE
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from paths import ROOT

ROUTING = "counts the fields of the output; ours has the routing too"
ITS_OWN = "makes stock Whisper itself, which takes a full window only"
SILENCE = "gives a decoder alone the states of the audio, without those of the silence"
CUT = "asks for gradients of the shown hidden states; of short audio these are cut from the ones in the graph"
PER_EXPERT = "asks for one row of the cache per utterance; with mixed outputs each active expert has one"
ASSISTED = [
    f"test_assisted_decoding_{name}"
    for name in ("matches_greedy_search_0_random", "matches_greedy_search_1_same", "sample")
]
SHORT = {
    **dict.fromkeys(
        ["test_model_forward", "test_model_forward_with_frozen_encoder", "test_custom_4d_attention_mask"], ITS_OWN
    ),
    "test_encoder_decoder_model_standalone": SILENCE,
    "test_retain_grad_hidden_states_attentions": CUT,
}
PATTERNS = "asks for plain names; ours are patterns, so that float16 leaves the router alone in float32"
MIXTURE = {"test_attention_outputs": ROUTING, "test_keep_in_fp32_modules_exist": PATTERNS}
INHERENT = {
    "TestStock": {},
    "TestPlainFull": {},
    "TestPlainShort": {**SHORT, "test_inherits_generation_mixin": "reads the bases of this test's own subclass"},
    "TestMixtureFull": MIXTURE,
    "TestMixtureShort": {**SHORT, **MIXTURE},
    "TestMixtureLogits": {
        **MIXTURE,
        "test_past_key_values_format": PER_EXPERT,
        "test_beam_search_generate_dict_outputs_use_cache": PER_EXPERT,
        "test_greedy_generate_dict_outputs_use_cache": PER_EXPERT,
        **dict.fromkeys(ASSISTED, PER_EXPERT),
    },
}


@pytest.mark.slow
def test_only_what_cannot_pass_fails(tmp_path):
    checkout = os.environ.get("UNDERHEARD_TRANSFORMERS_TESTS")
    if not checkout:
        pytest.skip("UNDERHEARD_TRANSFORMERS_TESTS names no checkout of transformers")
    report = tmp_path / "report.xml"
    # outside this repository, whose conftest is not theirs
    driver = shutil.copy(ROOT / "tests" / "support" / "stock_whisper_tests.py", tmp_path / "test_whisper.py")
    paths = [checkout, Path(checkout) / "utils", ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            f"--junitxml={report}",
            driver,
        ],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    failed: dict[str, set[str]] = {name: set() for name in INHERENT}
    counts: dict[str, Counter] = {name: Counter() for name in INHERENT}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kind = case.get("classname").rsplit(".", 1)[-1]
        outcome = "skipped" if case.find("skipped") is not None else "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            failed[kind].add(case.get("name"))
        counts[kind][outcome] += 1
    print("\n".join(f"{kind}: {dict(count)}" for kind, count in counts.items()))
    assert failed == {kind: set(reasons) for kind, reasons in INHERENT.items()}
    assert all(count["passed"] > 100 for count in counts.values())
