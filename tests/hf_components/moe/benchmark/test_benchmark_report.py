"""What a benchmark leaves: files, tables, index."""

import errno
import io
import json

import numpy as np
import pytest
from rich.console import Console
from tiny_speech import rows

from hf_components.moe.benchmark import report
from hf_components.moe.benchmark.report import (
    add_to_index,
    copy_result,
    difference_matrix,
    plot_benchmark,
    summary_tables,
    write_benchmark,
    write_transcripts,
)
from hf_components.moe.benchmark.routing import Mixture, routing_summary
from hf_components.moe.benchmark.rows import Row, score_rows
from hf_components.runtime.errors import UserError
from hf_components.runtime.json_lines import read_json_lines
from hf_components.scoring.error_rates import utterance_errors

pytestmark = pytest.mark.unit


@pytest.fixture
def judged():
    """Two experts of which each has every second text right; the router's row has one wrong."""
    corpus = rows(6)
    perfect = corpus["text"][:]
    experts = [
        Row(f"expert_{i}", ">= 2 s", [text if j % 2 == i else "x" for j, text in enumerate(perfect)], 1.0)
        for i in range(2)
    ]
    gates = np.array([[0.9, 0.1]] * 3 + [[0.25, 0.75]] * 3)
    errors = np.stack([utterance_errors(row.texts, perfect)["errors"] for row in experts])
    routed = {
        "top1": Row("moe_top1", ">= 2 s", perfect[:5] + ["x"], 1.0),
        "topk2": Row("moe_top2_weights", ">= 2 s", perfect, 1.5),
    }
    mixture = Mixture(
        None,
        routed,
        {"top1": np.eye(2)[gates.argmax(1)], "topk2": gates},
        experts,
        gates,
        errors,
        errors.argmin(0),
        np.array([1, 1, 0, 0, 1, 0]),
    )
    systems = [
        Row("zero_shot", "30 s", ["wrong"] * 6, 2.0),
        Row("single_lora", ">= 2 s", perfect[:3] + ["x"] * 3, 1.0),
    ]
    result = {
        "run_id": "trial",
        "sample": {"utterances": 6, "speakers": 4, "split": "dev"},
        **score_rows([*systems, *mixture.rows], corpus, num_bootstrap=50, seed=0),
        "routing": routing_summary(mixture, "top1", corpus),
    }
    return corpus, mixture, result


def lines_of(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_one_file_per_routing_with_the_same_baselines(tmp_path, judged):
    corpus, mixture, result = judged
    write_benchmark(tmp_path, "trial", result, mixture, corpus)
    assert {path.name for path in tmp_path.iterdir()} == {
        "benchmark_trial_top1.json",
        "benchmark_trial_topk2.json",
        "gating_trial_top1.jsonl",
        "gating_trial_topk2.jsonl",
    }
    for key, own, other in (("top1", "moe_top1", "moe_top2_weights"), ("topk2", "moe_top2_weights", "moe_top1")):
        written = json.loads((tmp_path / f"benchmark_trial_{key}.json").read_text())
        assert list(written["rows"]) == ["zero_shot", "single_lora", own, "moe_random", "moe_oracle"]
        assert all(written["rows"][name] == result["rows"][name] for name in written["rows"])
        assert written["differences"] == [line for line in result["differences"] if line["b"] != other]
        assert written["sample"] == result["sample"] and written["routing"] == routing_summary(mixture, key, corpus)


def test_a_line_of_gates_per_utterance(tmp_path, judged):
    corpus, mixture, result = judged
    write_benchmark(tmp_path, "trial", result, mixture, corpus)
    lines = lines_of(tmp_path / "gating_trial_topk2.jsonl")
    assert [line["id"] for line in lines] == corpus["id"][:]
    assert lines[4] == {
        "id": "u4",
        "speaker_id": "s0",
        "group": "middle",
        "gates": [0.25, 0.75],
        "experts": [1, 0],
        "weights": [0.75, 0.25],
        "oracle_expert": 0,
        "random_expert": 1,
    }
    first = lines_of(tmp_path / "gating_trial_top1.jsonl")[4]
    assert (first["experts"], first["weights"]) == ([1], [1.0])


def test_without_a_mixture_there_is_one_file(tmp_path, judged):
    corpus, _, result = judged
    write_benchmark(tmp_path, "trial", result, None, corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark_trial_top1.json"]


def test_transcripts(tmp_path, judged):
    corpus, mixture, _ = judged
    write_transcripts(tmp_path / "t.jsonl", mixture.rows + mixture.experts, corpus)
    lines = lines_of(tmp_path / "t.jsonl")
    assert [line["id"] for line in lines] == corpus["id"][:]
    assert lines[4]["moe_top1"] == lines[4]["reference"] == lines[4]["expert_0"] == corpus[4]["text"]


def test_tables_show_every_system_group_and_difference(judged):
    _, mixture, result = judged
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(*summary_tables(result))
    text = console.export_text()
    assert all(
        name in text
        for name in (
            "zero_shot",
            "single_lora",
            "moe_top1",
            "moe_random",
            "moe_oracle",
            "decodes",
            "low",
            "high",
            "6 utterances of 4",
            "30 s",
            "50 resamples",
            "seed 0",
        )
    )
    low, high = next(
        line["interval"]
        for line in result["differences"]
        if (line["a"], line["b"]) == ("single_lora", "moe_top2_weights")
    )
    difference = result["rows"]["moe_top2_weights"]["wer"] - result["rows"]["single_lora"]["wer"]
    assert f"{100 * difference:.1f} ({100 * low:.1f} to {100 * high:.1f})" in text
    assert "oracle's expert on" in " ".join(text.split())
    shares = {name: f"{100 * result['routing'][name]:.1f} %" for name in ("disagreement", "oracle_wer")}
    caption = "the texts of two experts differ by {disagreement} of their words, and the oracle's WER is {oracle_wer}"
    assert caption.format(**shares) in " ".join(text.split())
    del result["routing"]
    assert len(summary_tables(result | {"differences": []})) == 2


def test_the_matrix_of_differences(judged):
    baselines, matrix = difference_matrix(judged[2])
    assert baselines == ["zero_shot", "single_lora"]
    assert list(matrix) == ["single_lora", "moe_top1", "moe_top2_weights", "moe_random", "moe_oracle"]
    assert matrix["single_lora"][1] is None and matrix["single_lora"][0]["a"] == "zero_shot"
    for system in list(matrix)[1:]:
        assert [(line["a"], line["b"]) for line in matrix[system]] == [(a, system) for a in baselines]


def test_plots(tmp_path, judged):
    _, _, result = judged
    plot_benchmark(tmp_path, result)
    assert {path.name for path in tmp_path.iterdir()} == {"wer_per_group.png", "routing_per_group.png"}


def test_bars_are_of_systems_not_of_every_combination(tmp_path, judged, monkeypatch):
    _, _, result = judged
    names = ["zero_shot", "single_lora", "moe_shared", "moe_merge", "moe_top1", "moe_top2_weights", "moe_choose"]
    others = [
        "moe_soft",
        "moe_beta0.5",
        "moe_speaker",
        "moe_logits",
        "moe_mbr",
        "moe_rover",
        "moe_random",
        "moe_oracle",
    ]
    figures = result["rows"]["zero_shot"]
    drawn = {}
    monkeypatch.setattr(report, "plot_bars", lambda file, bars, *_: drawn.update({file.name: list(bars)}))
    plot_benchmark(tmp_path, {**result, "rows": dict.fromkeys([*names, *others], figures)})
    assert drawn["wer_per_group.png"] == names


def test_the_index_gets_a_line_per_file_and_none_twice(tmp_path, judged):
    corpus, mixture, result = judged
    folder, index = tmp_path / "benchmark", tmp_path / "benchmarks_index.jsonl"
    folder.mkdir()
    write_benchmark(folder, "trial", result, mixture, corpus)
    files = sorted(folder.glob("benchmark_*.json"))
    add_to_index(index, files[:1])  # killed after the first, as it were
    add_to_index(index, files)
    lines = lines_of(index)
    assert [line["file"] for line in lines] == [
        "benchmark/benchmark_trial_top1.json",
        "benchmark/benchmark_trial_topk2.json",
    ]
    assert lines[1]["wer"]["moe_top2_weights"] == result["rows"]["moe_top2_weights"]["wer"]
    assert "moe_top1" not in lines[1]["wer"]
    assert (lines[1]["run_id"], lines[1]["sample"]) == ("trial", result["sample"])
    write_benchmark(folder, "trial", result | {"run_id": "again\u2028\u0085"}, mixture, corpus)
    add_to_index(index, files)
    add_to_index(index, files)
    found = [row for _, row in read_json_lines(index)]
    assert found[:2] == lines and [row["run_id"] for row in found[2:]] == ["again\u2028\u0085"] * 2


def test_a_kill_or_a_full_disk_while_the_index_is_written_leaves_the_old_one(tmp_path, judged, monkeypatch):
    corpus, mixture, result = judged
    index = tmp_path / "benchmarks_index.jsonl"
    write_benchmark(tmp_path, "trial", result, mixture, corpus)
    files = sorted(tmp_path.glob("benchmark_*.json"))
    add_to_index(index, files[:1])
    before = index.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        add_to_index(index, files)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="benchmarks_index.jsonl could not be written"):
        patch.setattr("pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(full))
        add_to_index(index, files)
    assert index.read_bytes() == before


def test_a_letter_of_the_index_that_changed_is_found(tmp_path):
    result = {"run_id": "run", "sample": {"split": "dev", "speakers": 3}, "rows": {"moe": {"wer": 0.5}}}
    (tmp_path / "benchmark.json").write_text(json.dumps(result))
    index = tmp_path / "benchmarks_index.jsonl"
    for _ in range(2):
        add_to_index(index, [tmp_path / "benchmark.json"])
    (line,) = index.read_text().splitlines()
    index.write_text(line.replace("speakers", "steakers") + "\n")
    with pytest.raises(UserError, match="benchmarks_index.jsonl, line 1, is damaged, or was edited"):
        add_to_index(index, [])


@pytest.mark.parametrize("content", ['{"file":', "[]", '{"wer": 1}'])
def test_a_damaged_index_is_named_and_left_alone(tmp_path, content):
    index = tmp_path / "benchmarks_index.jsonl"
    index.write_text(content)
    with pytest.raises(UserError, match="is not an index of benchmarks"):
        add_to_index(index, [])
    assert index.read_text() == content


def test_a_copy_goes_where_it_is_wanted(tmp_path):
    source = tmp_path / "a.json"
    source.write_text("{}")
    copy_result(source, tmp_path / "deep" / "b.json", "--output")
    copy_result(source, source, "--output")
    assert (tmp_path / "deep" / "b.json").read_text() == source.read_text() == "{}"
    with pytest.raises(UserError, match="cannot write --output .*/a.json/b.json"):
        copy_result(source, source / "b.json", "--output")
