"""The acceptance of a GPU, in its form for a machine without one; and that it finds what differs or fails."""

import json

import pytest
import torch
from tiny_speech import save_tiny_whisper

from benchmarks import gpu_acceptance
from benchmarks.gpu_acceptance import NotAvailable, Row, any_failed, carry_out, verdict

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, run the script itself")


@pytest.mark.integration
def test_some_cases_on_the_cpu(tmp_path, capsys, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(gpu_acceptance, "is_flash_attn_2_available", lambda: False)
    model = save_tiny_whisper(tmp_path / "model", width=64)
    words = ["--output_dir", str(tmp_path / "out"), "--model", str(model)]
    rows = gpu_acceptance.main([*words, "--only", "fine-tuning, LoRA", "4 bits", "flash"])
    found = {row.case: row for row in rows}
    assert {name: row.verdict for name, row in found.items()} == {
        "fine-tuning, LoRA": "ok",
        "flash attention (sdpa)": "not available: needs a GPU",
        "base in 4 bits, LoRA": "ok",
    }
    assert found["fine-tuning, LoRA"].precision == "bf16" and found["fine-tuning, LoRA"].loss > 0
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == [vars(row) for row in rows]
    assert "fine-tuning, LoRA            bf16" in capsys.readouterr().out and not any_failed(rows)


@pytest.mark.slow
def test_all_of_it_on_the_cpu(tmp_path):
    if not gpu_acceptance.OFFLINE.exists():
        pytest.skip(f"there is no {gpu_acceptance.OFFLINE}; recipes/import_whisper.py makes it")
    rows = gpu_acceptance.main(["--output_dir", str(tmp_path / "out"), "--minutes=60"])
    assert not any_failed(rows), rows
    assert sum(row.verdict == "ok" for row in rows) >= 16


@pytest.mark.unit
@pytest.mark.parametrize(
    ("precision", "loss", "expected"),
    [
        ("float32", 2.01, "ok"),
        ("float32", 2.05, "failed: differs by 2.5%, allowed are 1%"),
        ("bf16", 1.91, "ok"),
        ("fp16", 1.8, "failed: differs by 10.0%, allowed are 5%"),
        ("fp16", float("nan"), "failed: the loss is nan"),
        ("4 bits", 2.2, "ok"),
    ],
)
def test_verdicts(precision, loss, expected):
    row = Row("case", precision, loss=loss, reference=2.0)
    assert verdict(row) == expected
    row.verdict = expected
    assert any_failed([Row("other", "bf16"), row]) == expected.startswith("failed")


def fails() -> float:
    raise RuntimeError("two different devices\nand more")


def lacks() -> float:
    raise NotAvailable("there is one GPU")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("run", "late", "expected"),
    [
        (fails, False, "failed: RuntimeError: two different devices"),
        (lacks, False, "not available: there is one GPU"),
        (fails, True, "not available: out of time"),
        (lambda: None, False, "ok"),
    ],
)
def test_what_fails_or_is_not_there_is_a_row(run, late, expected):
    row = Row("case", "bf16")
    carry_out(row, run, late)
    assert row.verdict == expected and (row.seconds is None) == late
