"""The whole children's pipeline on a tiny model and noise: from a manifest to transcripts, figures, submission and
card."""

import json
import zipfile
from pathlib import Path

import pytest
from card_blocks import run_blocks
from every_model import EVERY
from make_corpus import children_corpus, write_manifest
from paths import CONFIGS
from tiny_speech import save_tiny_whisper
from transformers import WhisperForConditionalGeneration

from hf_components.runtime.errors import UserError
from recipes import finetune_asr, prepare_corpus, run_children_pipeline, transcribe, verify

pytestmark = pytest.mark.integration

QUICK = str(CONFIGS / "run_children_pipeline" / "quick.yaml")
SMALL = [
    "--val_ratio=0.34",
    "--num_train_epochs=1",
    "--full_context_fraction=0",
    "--max_new_tokens=6",
    "--num_bootstrap=20",
    "--stage_options",
    "finetune_whisper.report_to=none",
    "pack_submission.max_samples=2",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    data = children_corpus(folder / "children")
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()][:4]
    (data / "test").mkdir()
    write_manifest(
        data / "test" / "metadata.jsonl",
        [{name: value for name, value in row.items() if name != "orthographic_text"} for row in rows],
    )
    write_manifest(
        data / "test" / "format.jsonl",
        [{"utterance_id": row["utterance_id"], "orthographic_text": ""} for row in reversed(rows)],
    )
    return data, save_tiny_whisper(folder / "whisper", positions=256)


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, run_children_pipeline.main(command(sources, out))


def test_verify_knows_all_that_a_run_leaves(finished):
    result = verify.main([str(finished[0])])
    assert result["exit_status"] == 0 and result["stages"] > 2, result


def command(sources: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    data, model = sources
    return [
        "--config",
        QUICK,
        "--data",
        str(data),
        "--model",
        str(model),
        "--output_dir",
        str(out),
        *SMALL,
        "--test_manifest",
        str(data / "test" / "metadata.jsonl"),
        "--submission_format",
        str(data / "test" / "format.jsonl"),
        "--audio_dirs",
        *(str(data / f"audio_{i}") for i in range(3)),
        *more,
    ]


def test_every_system_is_judged_on_children_that_none_was_trained_on(finished):
    out, results = finished
    assert list(results["evaluation"]["systems"]) == ["zero_shot", "finetuned", "finetuned_30s"]
    assert results["evaluation"]["references"]["utterances"] == results["corpus"]["rows"]["dev"] == 6
    assert results["training"]["utterances"] == results["corpus"]["rows"]["train"] == 12
    assert json.loads((out / "results.json").read_text())["evaluation"] == results["evaluation"]


def test_the_model_is_a_stock_whisper_with_its_card(finished):
    out, results = finished
    WhisperForConditionalGeneration.from_pretrained(out / "model")
    card = (out / "model" / "README.md").read_text()
    wer = results["evaluation"]["systems"]["finetuned"]["wer"]
    assert f"| `finetuned` | {100 * wer:.1f} |" in card and "plots/wer_per_group.png" in card
    assert "None" not in card and "\n\n\n" not in card
    assert f"fine-tuned on {results['corpus']['name']}" in card


@pytest.mark.slow
def test_every_line_of_use_on_the_card_runs(finished, tmp_path):
    model = finished[0] / "model"
    assert run_blocks((model / "README.md").read_text(), tmp_path / "home", folder=model) == 2


@pytest.mark.parametrize("family", ["parakeet tdt", "moonshine", "qwen3-asr", "canary"])
def test_any_family_goes_all_the_way(sources, tmp_path, family):
    small = [flag for flag in SMALL if "full_context" not in flag]
    small = [flag.replace("finetune_whisper.", "finetune_asr.") for flag in small]
    words = [*("--config", QUICK), *("--data", str(sources[0])), *("--model", str(EVERY[family](tmp_path / "base")))]
    results = run_children_pipeline.main([*words, "--output_dir", str(tmp_path / "run"), *small])
    assert list(results["evaluation"]["systems"]) == ["zero_shot", "finetuned"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "None" not in card and "\n\n\n" not in card and "every Whisper" not in card
    assert ("pipeline(" in card) == (family != "qwen3-asr")
    if family == "canary":  # its prompt is not one that a package knows
        assert results["package"] is None and not (tmp_path / "run" / "submission.zip").exists()
    else:
        assert results["package"]["verified"]["wer"].keys() == {"before", "packed"}


def test_the_submission_has_the_order_of_its_format_and_the_package_runs(finished):
    out, results = finished
    ids = [json.loads(line)["utterance_id"] for line in (out / "submission.jsonl").read_text().splitlines()]
    assert ids == ["U_3", "U_2", "U_1", "U_0"]
    assert "main.py" in zipfile.ZipFile(out / "submission.zip").namelist()
    assert results["package"]["verified"]["wer"].keys() == {"before", "packed"}


def test_resuming_trains_and_transcribes_nothing_again(sources, finished, monkeypatch):
    out, results = finished
    monkeypatch.setattr(finetune_asr, "produce", None)  # calling them would fail
    monkeypatch.setattr(transcribe, "transcribe_to_file", None)
    again = run_children_pipeline.main(command(sources, out, "--resume"))
    assert again["evaluation"] == results["evaluation"]


def test_a_corpus_without_held_out_children_is_refused(sources, tmp_path):
    with pytest.raises(UserError, match="has no split dev"):
        run_children_pipeline.main(command(sources, tmp_path / "run", "--val_ratio=0"))


def test_mistakes_about_the_test_set_are_told_before_training(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_corpus, "main", None)  # nothing has run yet
    other = write_manifest(tmp_path / "format.jsonl", [{"utterance_id": "U_99", "orthographic_text": ""}])
    for flags, message in (
        (["--submission_format", str(other)], "U_99"),
        (["--test_manifest", "missing.jsonl"], "missing.jsonl"),
        (["--fields", "utterance_id=name"], "name must be a string"),
    ):
        with pytest.raises(UserError, match=message):
            run_children_pipeline.main(command(sources, tmp_path / "run", *flags))


def test_flags_of_a_manifest_are_refused_for_a_prepared_corpus(finished, tmp_path):
    out, _ = finished
    with pytest.raises(UserError, match="--split_seed is for a manifest"):
        run_children_pipeline.main(
            ["--config", QUICK, "--data", str(out / "corpus"), "--output_dir", str(tmp_path / "run"), "--split_seed=1"]
        )


def test_a_submission_format_needs_a_manifest(sources, tmp_path):
    with pytest.raises(UserError, match="give that too"):
        run_children_pipeline.main(["--data=x", "--output_dir", str(tmp_path / "run"), "--submission_format=x.jsonl"])


def test_a_smoke_test_is_short_and_beside_the_result(sources, tmp_path, capsys):
    words = ["--debug", "--gradient_checkpointing", "--force_restart", "--dry_run"]
    run_children_pipeline.main([*command(sources, tmp_path / "run"), *words])
    plan = capsys.readouterr().out
    assert f"--output_dir={tmp_path / 'run_debug' / 'finetuned'}" in plan and "--num_train_epochs=1" in plan
    assert "--max_samples=100" in plan and "--gradient_checkpointing=True" in plan and "--resume=False" in plan


def test_flags_of_a_division_are_warned_of_for_a_prepared_corpus(finished, tmp_path, capsys):
    out, _ = finished
    words = ["--data", str(out / "corpus"), "--output_dir", str(tmp_path / "run"), "--val_ratio=0.2", "--dry_run"]
    run_children_pipeline.main(["--config", QUICK, *words])
    assert "--val_ratio has no effect: this run takes no step prepare_corpus" in capsys.readouterr().err
