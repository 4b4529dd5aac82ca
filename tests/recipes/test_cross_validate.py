"""`recipes/cross_validate.py` on a tiny model: every speaker is held out once, and the folds are one benchmark."""

import json
from pathlib import Path

import pytest
from paths import ROOT
from tiny_speech import save_tiny_whisper, speaker_folder

from hf_components.runtime.errors import UserError
from hf_components.scoring import utterance_errors
from recipes import cross_validate, prepare_corpus, run_moe_pipeline

pytestmark = pytest.mark.integration

QUICK = str(ROOT / "recipes" / "configs" / "run_moe_pipeline" / "quick.yaml")
FLAGS = [
    "--num_experts=2",
    "--shared_epochs=1",
    "--expert_epochs=1",
    "--joint_epochs=1",
    "--no_plot",
    "--benchmark_models=zero_shot,moe",
    "--stage_options",
    "pretrain_router.num_train_epochs=3",
    "extract_embeddings.full_context_samples=3",
    "benchmark_asr.max_new_tokens=6",
    "benchmark_asr.num_bootstrap=5",
    "pretrain_experts.report_to=none",
    "train_moe_whisper.report_to=none",
    "pretrain_experts.full_context_fraction=0",
    "train_moe_whisper.full_context_fraction=0",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    speakers = speaker_folder(folder / "speakers")
    prepare_corpus.main(["--builder=speaker_json", f"--data_dir={speakers}", f"--output_dir={folder / 'corpus'}"])
    return folder / "corpus", save_tiny_whisper(folder / "whisper")


def command(sources, out: Path, *own: str) -> list[str]:
    return [*own, f"--output_dir={out}", "--config", QUICK, f"--data={sources[0]}", f"--model={sources[1]}", *FLAGS]


def lines_of(out: Path, fold: int) -> list[dict]:
    text = (out / f"fold_{fold}" / "benchmark" / "transcripts.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def errors_of(folds: list[list[dict]], system: str) -> dict:
    lines = [line for fold in folds for line in fold]
    return utterance_errors([line[system] for line in lines], [line["reference"] for line in lines])


def test_folds_are_one_benchmark_and_an_interrupted_run_goes_on(sources, tmp_path):
    out = tmp_path / "out"
    first = cross_validate.main(command(sources, out, "--folds=2", "--only_folds", "1"))
    assert first["sample"]["split"] == "1 of 2 folds" and list(first["per_fold"]) == ["1"]
    finished = (out / "fold_1" / "joint" / "stage.json").stat().st_mtime_ns
    result = cross_validate.main(command(sources, out, "--folds=2"))
    assert (out / "fold_1" / "joint" / "stage.json").stat().st_mtime_ns == finished
    assert result["sample"]["split"] == "2 of 2 folds"
    folds = [lines_of(out, fold) for fold in (0, 1)]
    assert len({line["id"] for lines in folds for line in lines}) == result["sample"]["utterances"] == 36  # all
    assert not {line["speaker_id"] for line in folds[0]} & {line["speaker_id"] for line in folds[1]}
    assert {"zero_shot", "moe_shared", "moe_top1", "shipped"} <= result["rows"].keys()
    assert (result["rows"]["moe_top1"]["decodes"], result["rows"]["moe_oracle"]["decodes"]) == (1, 2)  # of two experts
    words = [sum(len(line["reference"].split()) for line in lines) for lines in folds]
    errors = sum(result["per_fold"][str(fold)]["wer"]["moe_top1"] * words[fold] for fold in (0, 1))
    assert result["rows"]["moe_top1"]["wer"] == pytest.approx(errors / sum(words))
    compared = {(line["a"], line["b"]): line for line in result["differences"]}
    assert ("zero_shot", "shipped") in compared
    alone = [sum(e["errors"]) / sum(words) for e in (errors_of(folds, f"expert_{i}") for i in (0, 1))]
    assert compared["chance", "moe_top1"]["wer_a"] == pytest.approx(sum(alone) / 2)
    assert json.loads((out / "results.json").read_text())["rows"].keys() == result["rows"].keys()


def test_a_plan_of_a_fold_is_that_of_the_pipeline(sources, tmp_path, capsys):
    cross_validate.main(command(sources, tmp_path / "cv", "--folds=3", "--only_folds", "2", "--dry_run"))
    planned = capsys.readouterr().out
    run_moe_pipeline.main(command(sources, tmp_path / "run", "--folds=3", "--fold=2", "--dry_run"))
    alone = capsys.readouterr().out
    assert "benchmark_asr" in planned and len(planned.splitlines()) == len(alone.splitlines())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--folds=1"], "folds must be at least 2, got 1"),
        (["--folds=3", "--only_folds", "3"], "--only_folds counts from 0 to 2, got 3"),
        (["--folds=three"], "folds"),
        (["--folds=30"], "30 folds need at least 30 speakers"),
        (["--num_expert=2"], "did you mean --num_experts"),
    ],
)
def test_mistakes_are_told(sources, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        cross_validate.main(command(sources, tmp_path / "out", *flags))
