"""`recipes/check_llm.py`: four numbered steps, and an exit code."""

import json
import re

import pytest
from tiny_llm import save_tiny_llm, script

from recipes import check_llm

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"))


def run(monkeypatch, llm, reply) -> dict:
    load = check_llm.load_corrector

    def load_scripted(args):
        corrector = load(args)
        script(corrector, reply)
        return corrector

    monkeypatch.setattr(check_llm, "load_corrector", load_scripted)
    return check_llm.main(["--llm_model", str(llm)])


def test_an_llm_that_corrects_passes(monkeypatch, llm, capsys):
    metrics = run(monkeypatch, llm, lambda shown: dict(check_llm.PAIRS).get(shown, shown))
    printed = capsys.readouterr().out
    assert re.findall(r"^(\d)\. ", printed, re.MULTILINE) == ["1", "2", "3", "4"]
    assert printed.count("   ok: ") == 4 and "s per transcript" in printed
    assert metrics["wer_corrected"] < metrics["wer_heard"] and metrics["corrected"] > 2
    assert f"WER {metrics['wer_heard']:.3f} -> {metrics['wer_corrected']:.3f}" in printed
    json.dumps(metrics)


def test_an_llm_that_changes_nothing_works_but_is_told_of(monkeypatch, llm, capsys):
    metrics = run(monkeypatch, llm, lambda shown: shown)
    assert metrics["wer_corrected"] == metrics["wer_heard"] and metrics["unchanged"] == len(check_llm.PAIRS)
    assert "does not improve them" in capsys.readouterr().out


def test_every_pair_can_pass_the_gate(monkeypatch, llm):
    assert run(monkeypatch, llm, lambda shown: dict(check_llm.PAIRS).get(shown, shown))["wer_corrected"] == 0


@pytest.mark.parametrize("reply", ["...", "", "sure\nhere"])
def test_an_llm_that_does_not_follow_fails(monkeypatch, llm, capsys, reply):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, llm, lambda shown: reply)
    assert stop.value.code == 1
    assert "   failed: no reply of the LLM is a transcript" in capsys.readouterr().out


def test_an_llm_that_cannot_be_loaded_fails_at_the_first_step(capsys):
    with pytest.raises(SystemExit) as stop:
        check_llm.main(["--llm_model", "someone/llm"])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "1. Loading someone/llm\n   failed: the LLM someone/llm cannot be loaded: the Hub" in printed
    assert "2. " not in printed
