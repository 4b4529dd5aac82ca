"""Model cards: complete or refused, with metadata that the Hub takes, and every picture beside them."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries

from hf_components.moe.benchmark.combining import COMBINATIONS
from hf_components.moe.release import PLOTS, card_data, release_model
from hf_components.publishing.cards import render_card
from hf_components.publishing.report import EVAL_RESULTS
from hf_components.reporting.figures import interval, percent
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def figures(wer: float) -> dict:
    return {
        "wer": wer,
        "cer": wer / 2,
        "wer_interval": [wer - 0.05, wer + 0.05],
        "normalizer": "english",
        "audio_context": "30 s",
        "decodes": 1,
        "real_time_factor": 0.25,
        "per_group": {"child": {"wer": wer, "speakers": 1}, "adult": {"wer": wer + 0.01, "speakers": 2}},
    }


@pytest.fixture
def results() -> dict:
    return {
        "mode": "quick",
        "seed": 42,
        "language": "en",
        "license": "mit",
        "base_model": "openai/whisper-tiny.en",
        "seconds": 90,
        "corpus": {
            "name": "demo",
            "hub_id": None,
            "revision": None,
            "rows": {"train": 30, "dev": 12},
            "hours": 0.1,
            "rejected": {"empty audio": 2, "missing file": 1},
        },
        "clusters": {
            "algorithm": "spectral",
            "agreement_nmi": {"group": 0.5, "speaker": 0.4, "duration_quartile": 0.1},
            "splits": {"train": {"utterances": 20}},
        },
        "benchmark": {
            "sample": {
                "utterances": 12,
                "speakers": 3,
                "split": "dev",
                "hours": 0.02,
                "file": "sample.json",
                "seed": 42,
                "batch_size": 16,
                "num_beams": 5,
                "processes": 1,
            },
            "rows": {
                name: figures(0.3 - 0.02 * i)
                for i, name in enumerate(("zero_shot", "single_lora", "full", "moe_top1"))
            },
            "differences": [
                {"a": "zero_shot", "b": "single_lora", "difference": -0.02, "interval": [-0.03, -0.01]},
                {"a": "zero_shot", "b": "moe_top1", "difference": -0.04, "interval": [-0.1, 0.02]},
                {"a": "single_lora", "b": "moe_top1", "difference": -0.02, "interval": None},
            ],
            "bootstrap": {"resamples": 1000, "unit": "speaker", "confidence": 0.95, "seed": 42},
            "routing": {
                "usage": [0.5, 0.3, 0.2],
                "oracle_chosen": 0.3,
                "as_good_as_oracle": 0.4,
                "as_good_by_chance": 0.35,
                "gate_entropy": 0.9,
                "wer_of_each_expert": [0.3, 0.4, 0.5],
                "oracle_wer": 0.2,
                "disagreement": 0.125,
            },
        },
        "environment": {
            "gpu": None,
            "cpu_count": 2,
            "platform": "x86_64",
            "python": "3",
            "torch": "2",
            "transformers": "5",
            "accelerate": "1",
        },
        "training": {"router": {}, "experts": {}, "single_lora": {}, "joint": {}},
        "selected_on": [],
        "shipped": "moe",
        "reason": "moe has the lowest WER",
    }


@pytest.fixture
def run(tmp_path):
    for file in PLOTS:
        (tmp_path / "run" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / file).write_bytes(b"\x89PNG")
    for folder in ("model", "experts/expert_0"):
        (tmp_path / "run" / "joint" / folder).mkdir(parents=True)
    config = {
        "num_experts": 3,
        "shared_expert": True,
        "router_layer": 2,
        "encoder_layers": 4,
        "experts_per_utterance": 2,
        "lora_rank": 8,
        "routing": "hard",
    }
    (tmp_path / "run" / "joint" / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "run" / "joint" / "experts" / "expert_0" / "adapter_config.json").write_text("{}")
    return tmp_path / "run"


def test_the_card_of_a_corpus_with_disfluencies_has_the_rates_of_the_challenge(run, tmp_path, results):
    rates = {"cer": 0.081, "cer_interval": [0.05, 0.11], "wer": 0.192, "wer_interval": [0.15, 0.23]}
    for row in results["benchmark"]["rows"].values():
        row["sap"] = rates
    (tmp_path / "release").mkdir()
    release_model(tmp_path / "release", run, results, base="base")
    text = (tmp_path / "release" / "README.md").read_text()
    assert "| `moe_top1` | 8.1 | 5.0 to 11.0 | 19.2 | 15.0 to 23.0 |" in text
    assert "(SAPC2)" in text


def test_the_release_is_whole_and_its_card_valid(run, tmp_path, results):
    folder = tmp_path / "release"
    folder.mkdir()
    assert release_model(folder, run, results, base="base") == pytest.approx(
        {"zero_shot": 0.3, "single_lora": 0.28, "full": 0.26, "moe_top1": 0.24}
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "openai/whisper-tiny.en" and card.data.license == "mit"
    assert card.data.pipeline_tag == "automatic-speech-recognition" and card.data.library_name == "transformers"
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card.text)
    assert len(pictures) >= 5 and all((folder / picture).is_file() for picture in pictures)
    assert (folder / "experts" / "expert_0" / "adapter_config.json").exists()
    assert json.loads((folder / "results.json").read_text()) == results
    assert "{{" not in card.text and "{%" not in card.text
    assert "2 empty audio, 1 missing file" in card.text
    assert "SAPC2" not in card.text  # no disfluencies, no second scorer


def test_the_tables_of_the_card_are_tables(run, tmp_path, results):
    release_model(tmp_path / "release", run, results, base="base")
    lines = (tmp_path / "release" / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| system |"))
    table = lines[start : start + 6]
    assert [line.count("|") for line in table] == [10] * 6  # no blank line between them, as many cells in each
    assert set(table[1]) <= set("|-:")
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "`zero_shot`",
        "`single_lora`",
        "`full`",
        "`moe_top1`",
    ]
    assert "| 1 | 30.0 | 25.0 to 35.0 | 15.0 | 0.250 |" in table[2] and table[0].split("|")[8].strip() == "adult (2)"
    start = next(i for i, line in enumerate(lines) if "minus `zero_shot`" in line)
    assert lines[start : start + 5] == [
        "| system | minus `zero_shot` | minus `single_lora` |",
        "|---|---:|---:|",
        "| `single_lora` | -2.0 (-3.0 to -1.0) | |",
        "| `moe_top1` | -4.0 (-10.0 to 2.0) | -2.0 (-) |",
        "",
    ]


def test_rows_are_explained_if_they_are_there(run, tmp_path, results):
    release_model(tmp_path / "release", run, results, base="base")
    card = (tmp_path / "release" / "README.md").read_text()
    assert (
        "- `full`: " in card
        and "- `single_lora`: " in card
        and "`soup`" not in card
        and "`single_lora_wide`" not in card
        and "`moe_merge`" not in card
    )
    added = ["soup", "moe_merge", "moe_beta0.5", *(f"moe_{name}" for name in COMBINATIONS if name != "beta")]
    results["benchmark"]["rows"] |= {name: figures(0.2) for name in added}
    release_model(tmp_path / "again", run, results, base="base")
    again = (tmp_path / "again" / "README.md").read_text()
    assert all(again.count(f"- `{name}`: ") == 1 for name in added)
    assert "differ by 12.5 % of their words; the oracle's WER is 20.0." in again


@pytest.mark.parametrize(
    "path",
    [
        "seed",
        "benchmark.routing.gate_entropy",
        "benchmark.bootstrap.seed",
        "clusters.algorithm",
        "benchmark.sample.split",
        "benchmark.rows.moe_top1.wer",
        "environment.torch",
    ],
)
def test_a_missing_figure_fails_the_card(run, tmp_path, results, path):
    *parents, last = path.split(".")
    node = results
    for name in parents:
        node = node[name]
    del node[last]
    with pytest.raises((UserError, KeyError), match=last):
        release_model(tmp_path / "release", run, results, base="base")
    if last != "wer":  # which the returned figures need before
        assert not (tmp_path / "release" / "README.md").exists()


def test_a_base_model_on_this_disk_is_no_hub_id(tmp_path, results):
    metadata = card_data(results | {"base_model": str(tmp_path)})
    assert metadata.base_model is None
    card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\ntext")
    assert card.data.license == "mit"


def test_figures_as_text():
    assert (percent(0.2514), interval([0.2, 0.3]), interval(None)) == ("25.1", "20.0 to 30.0", "-")


def test_render_names_the_figure():
    with pytest.raises(UserError, match="is undefined"):
        render_card("moe_whisper.md", {}, ModelCardData(license="mit"))


def test_figures_of_a_corpus_on_this_disk_name_no_data_set_of_the_hub(run, tmp_path, results):
    release_model(tmp_path / "release", run, results, base="base")
    data = ModelCard.load(tmp_path / "release" / "README.md").data
    assert data.datasets is None and not (tmp_path / "release" / ".eval_results").exists()
    found = {
        result.metric_type: (
            result.metric_value,
            result.dataset_name,
            result.dataset_type,
            result.dataset_revision,
            result.dataset_split,
            result.task_type,
        )
        for result in data.eval_results
    }
    local = ("demo", "audiofolder", None, "dev", "automatic-speech-recognition")
    assert found == {"wer": (24.0, *local), "cer": (12.0, *local)}


def test_figures_of_a_corpus_on_the_hub_are_tied_to_its_revision_in_both_forms(run, tmp_path, results):
    results["corpus"] |= {"hub_id": "user/demo", "revision": "1234abcd"}
    release_model(tmp_path / "release", run, results, base="base")
    data = ModelCard.load(tmp_path / "release" / "README.md").data
    assert (
        data.datasets == ["user/demo"]
        and "`user/demo` at revision `1234abcd`" in (tmp_path / "release" / "README.md").read_text()
    )
    assert {(result.dataset_type, result.dataset_revision) for result in data.eval_results} == {
        ("user/demo", "1234abcd")
    }
    (entry,) = parse_eval_result_entries(yaml.safe_load((tmp_path / "release" / EVAL_RESULTS).read_text()))
    assert (entry.dataset_id, entry.dataset_revision, entry.task_id, entry.value) == (
        "user/demo",
        "1234abcd",
        "dev",
        24.0,
    )
    assert entry.notes == "WER (%); CER (%) 12.0"


def test_a_run_without_plots_is_released_without_them(run, tmp_path, results):
    (run / "clusters" / "clusters.png").unlink()
    release_model(tmp_path / "release", run, results, base="base")
    card = (tmp_path / "release" / "README.md").read_text()
    assert "clusters.png" not in card and "wer_per_group.png" in card
