"""The whole wav2vec2 pipeline on a tiny model, tones and a scripted LLM: from recordings to figures, model and
card."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from card_blocks import run_blocks
from huggingface_hub import ModelCard
from paths import CONFIGS
from safetensors.torch import load_file
from tiny_ctc import save_tiny_wav2vec2
from tiny_recordings import recordings, scripted_corrector
from transformers import Wav2Vec2ForCTC

from hf_components.correction.finetuning import gold
from hf_components.runtime import ID, TEXT
from recipes import finetune_wav2vec2_lora, run_wav2vec2_pipeline, verify

pytestmark = pytest.mark.integration

QUICK = str(CONFIGS / "run_wav2vec2_pipeline" / "quick.yaml")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    recordings(folder / "audio")
    save_tiny_wav2vec2(folder / "base")
    quick = yaml.safe_load(Path(QUICK).read_text())
    for name in ("recognisers", "judges", "max_gold_wer"):  # those of the quick run hear nothing in tones
        del quick[name]
    quick |= {"gold": "manifest", "llm_figure": True, "train_on": "errors"}
    (folder / "quick.yaml").write_text(yaml.safe_dump(quick))
    return folder


def command(sources: Path, out: Path, *more: str) -> list[str]:
    return [
        "--config",
        str(sources / "quick.yaml"),
        "--data",
        str(sources / "audio"),
        "--model",
        str(sources / "base"),
        "--output_dir",
        str(out),
        "--num_epochs=1",
        "--eval_ratio=0.4",
        "--num_bootstrap=20",
        "--no_plot",
        "--release=always",
        "--stage_options",
        "finetune_wav2vec2_lora.report_to=none",
        "finetune_wav2vec2_lora.use_cpu=true",
        *more,
    ]


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    corrector, _ = scripted_corrector(out.parent / "llm", lambda text: text[:-1] if len(text) % 3 else text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gold, "load_corrector", lambda args, alphabet: corrector)
        return out, run_wav2vec2_pipeline.main(command(sources, out))


def test_verify_knows_all_that_a_run_leaves(finished):
    result = verify.main([str(finished[0])])
    assert result["exit_status"] == 0 and result["stages"] > 2, result


def test_both_kinds_of_gold_have_a_figure_on_the_same_held_out_recordings(finished):
    out, results = finished
    manifest, llm = results["evaluation"], results["llm"]
    assert (manifest["gold"]["source"], llm["gold"]["source"]) == ("manifest", "llm")
    assert manifest["baseline"]["wer_truth"] == llm["baseline"]["wer_truth"] == manifest["baseline"]["wer"]
    assert llm["baseline"]["wer"] != manifest["baseline"]["wer"]
    assert json.loads((out / "results.json").read_text())["llm"] == llm and results["compared"] == {}


def test_the_quick_run_takes_gold_that_no_truth_made(sources, tmp_path):
    for name, change in (("voter", str.upper), ("judge", str.title)):
        rows = [json.loads(line) for line in (sources / "audio" / "truth.jsonl").read_text().splitlines()]
        lines = [json.dumps({ID: row["file"], TEXT: change(row["text"])}) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "truth.jsonl").write_text("")
    words = command(sources, tmp_path / "run", "--release=better", f"--truth={tmp_path / 'truth.jsonl'}")
    words[1] = QUICK
    words += ["--recognisers", str(tmp_path / "voter.jsonl"), "--judges", str(tmp_path / "judge.jsonl")]
    results = run_wav2vec2_pipeline.main([*words, "--max_gold_wer=9"])
    evaluation = results["evaluation"]
    assert evaluation["gold"]["source"] == "consensus" and evaluation["gold"]["wer_truth"] is None
    assert evaluation["gold"]["estimated_wer"] > 0.3 and results["shipped"] == "base"
    assert "hear something else than the base" in results["reason"]  # the tiny one writes no words


def test_the_model_is_a_stock_wav2vec2_with_its_card(finished):
    out, results = finished
    Wav2Vec2ForCTC.from_pretrained(out / "model")
    assert (out / "model" / "lora_adapters" / "adapter_config.json").exists()
    card = (out / "model" / "README.md").read_text()
    assert f"| all (4) | WER against the truth | {100 * results['evaluation']['baseline']['wer_truth']:.1f} |" in card
    assert "## On an LLM's corrections" in card and "## What to train on" not in card
    assert "None" not in card and "\n\n\n" not in card


def test_a_model_that_is_not_surely_better_is_kept_and_the_base_released(sources, finished, monkeypatch):
    out, earlier = finished
    monkeypatch.setattr(finetune_wav2vec2_lora, "produce", None)  # only the decision is another one
    results = run_wav2vec2_pipeline.main(command(sources, out, "--resume", "--release=better"))
    assert (results["shipped"], results["reason"]) == ("base", earlier["evaluation"]["release"]["reason"])
    base, released = (load_file(folder / "model.safetensors") for folder in (sources / "base", out / "model"))
    assert all(torch.equal(released[name], value) for name, value in base.items())
    assert (out / "not_released" / "lora_adapters" / "adapter_config.json").exists()
    assert not (out / "model" / "lora_adapters").exists()
    card = ModelCard.load(out / "model" / "README.md")
    assert "**These are the weights of the base, unchanged:**" in card.content and "lora" not in card.data.tags
    (figure,) = card.data.eval_results
    evaluation = results["evaluation"]
    assert figure.metric_value == pytest.approx(100 * evaluation["baseline"]["wer_truth"], abs=0.01)
    trained = ModelCard.load(out / "finetuned" / "model" / "README.md").data.eval_results[0]
    assert trained.metric_value == pytest.approx(100 * evaluation["finetuned"]["wer_truth"], abs=0.01)
    run_wav2vec2_pipeline.main(command(sources, out, "--resume"))  # as the other tests expect it


@pytest.mark.slow
def test_every_line_of_use_on_the_card_runs(finished, tmp_path):
    model = finished[0] / "model"
    assert run_blocks((model / "README.md").read_text(), tmp_path / "home", folder=model) == 2


def test_resuming_does_nothing_again(sources, finished, monkeypatch):
    out, results = finished
    monkeypatch.setattr(finetune_wav2vec2_lora, "produce", None)  # calling it would fail
    again = run_wav2vec2_pipeline.main(command(sources, out, "--resume"))
    assert {**again, "seconds": 0} == {**results, "seconds": 0}


def test_what_to_train_on_is_compared(sources, tmp_path, monkeypatch):
    corrector, asked = scripted_corrector(tmp_path / "llm", lambda text: text[:-1] if len(text) % 2 else text)
    monkeypatch.setattr(corrector, "warm_up", lambda: 0.0)
    monkeypatch.setattr(gold, "load_corrector", lambda args, alphabet: corrector)
    more = ("--gold=llm", "--train_on=all", "--compare_train_on", "--no_lora")
    results = run_wav2vec2_pipeline.main(command(sources, tmp_path / "run", *more))
    assert sum(map(len, asked)) == 10  # of the three runs the first asks for all
    assert results["llm"] is None and results["evaluation"]["method"] == "full"
    compared = results["compared"]
    counts = {name: result["training"]["recordings"] for name, result in compared.items()}
    assert list(counts) == ["errors", "agreed", "all"] and counts["errors"] + counts["agreed"] == counts["all"] == 6
    assert "| nothing | 0 |" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_choice_that_leaves_nothing_is_left_out_of_the_comparison(sources, tmp_path, capsys):
    results = run_wav2vec2_pipeline.main(
        command(sources, tmp_path / "run", "--compare_train_on", "--llm_figure=false")
    )
    assert list(results["compared"]) == ["errors", "all"]  # a tiny model is right nowhere
    assert (
        "--train_on agreed is left out of the comparison: there is nothing to train on: 6 of 6"
        in capsys.readouterr().err
    )


def test_the_lowest_error_rate_wins_against_the_truth_where_it_is_known():
    one = {
        "training": {"recordings": 3},
        "baseline": {"wer_truth": 0.5},
        "finetuned": {"wer": 0.1, "wer_truth": 0.4, "length_ratio": 1.0},
    }
    two = {**one, "finetuned": {"wer": 0.2, "wer_truth": 0.3, "length_ratio": 0.9}}
    assert run_wav2vec2_pipeline.compare({"errors": one, "all": two}).endswith("lowest: all")
    blind = [{**row, "baseline": {"wer_truth": None}} for row in (one, two)]
    assert run_wav2vec2_pipeline.compare(dict(zip(("errors", "all"), blind, strict=True))).endswith("lowest: errors")
