"""The parts of the benchmark."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_speech import rows, tiny_moe, tiny_processor

from hf_components import benchmark
from hf_components.errors import UserError
from hf_components.scoring import compare, score

pytestmark = pytest.mark.unit


def test_the_sample_is_drawn_once_and_kept(tmp_path):
    corpus, file = rows(12), tmp_path / "deep" / "sample.json"
    first = benchmark.fixed_sample(corpus, file, 5, seed=1)
    assert len(first) == 5 and json.loads(file.read_text()) == {"size": 5, "seed": 1, "ids": first["id"][:]}
    assert benchmark.fixed_sample(corpus, file, 9, seed=2)["id"][:] == first["id"][:]
    backwards = corpus.select(range(11, -1, -1))
    assert benchmark.fixed_sample(backwards, file, 5, seed=1)["id"][:] == first["id"][:]
    assert benchmark.fixed_sample(corpus, tmp_path / "other.json", 5, seed=2)["id"][:] != first["id"][:]


def test_a_sample_of_another_corpus_is_refused(tmp_path):
    file = tmp_path / "sample.json"
    benchmark.fixed_sample(rows(6), file, 4, seed=1)
    with pytest.raises(UserError, match="names 4 utterances that the corpus lacks"):
        benchmark.fixed_sample(rows(6, first=50), file, 4, seed=1)


@pytest.mark.parametrize("content", ["{", '{"size": 3}', "[]"])
def test_a_sample_file_that_is_none_is_named(tmp_path, content):
    file = tmp_path / "sample.json"
    file.write_text(content)
    with pytest.raises(UserError, match="is not a sample"):
        benchmark.fixed_sample(rows(3), file, 4, seed=1)


def test_the_oracle_takes_the_transcript_with_the_fewest_errors():
    corpus = rows(3)
    texts = corpus["text"][:]
    experts = [benchmark.Row("expert_0", "30 s", ["wrong", texts[1], "wrong"], 1.0),
               benchmark.Row("expert_1", "30 s", [texts[0].upper() + ".", texts[1], "wrong"], 1.0),
               benchmark.Row("expert_2", "30 s", ["wrong"] * 2 + [texts[2]], 1.0)]
    assert benchmark.oracle_choice(experts, corpus).tolist() == [1, 0, 2]  # after normalising; the first of equals


def test_gates_come_in_the_order_of_the_corpus():
    corpus, model = rows(5), tiny_moe(min_audio_context=400)  # one context for all, so that batches do not matter
    gates = benchmark.corpus_gates(model, tiny_processor(), corpus, batch_size=2)
    alone = torch.cat([benchmark.corpus_gates(model, tiny_processor(), corpus.select([i]), 1) for i in range(5)])
    torch.testing.assert_close(gates, alone)


@pytest.fixture
def judged():
    corpus = rows(6)
    perfect = corpus["text"][:]
    systems = [benchmark.Row("zero_shot", "30 s", ["wrong"] * 6, 2.0),
               benchmark.Row("single_lora", ">= 2 s", perfect[:3] + ["x"] * 3, 1.0),
               benchmark.Row("moe_top1", ">= 2 s", perfect, 1.0)]
    return corpus, systems, benchmark.judge(systems, corpus, baseline="single_lora", num_bootstrap=50, seed=0)


def test_every_row_is_scored_and_compared_with_both_baselines(judged):
    corpus, systems, result = judged
    for system in systems:
        expected = score(system.texts, corpus["text"], corpus["group"], corpus["speaker_id"], num_bootstrap=50, seed=0)
        assert {key: result["rows"][system.name][key] for key in expected} == expected
        assert result["rows"][system.name]["audio_context"] == system.audio_context
    assert result["rows"]["zero_shot"]["real_time_factor"] == pytest.approx(2 / sum(corpus["duration"]), abs=1e-3)
    assert [(line["a"], line["b"]) for line in result["differences"]] == [
        ("zero_shot", "single_lora"), ("zero_shot", "moe_top1"), ("single_lora", "moe_top1")]
    last = compare(systems[1].texts, systems[2].texts, corpus["text"], corpus["speaker_id"], num_bootstrap=50, seed=0)
    assert result["differences"][-1] == {"a": "single_lora", "b": "moe_top1", **last} and last["difference"] < 0
    assert json.loads(json.dumps(result)) == result


def test_tables_show_every_system_and_group(judged):
    result = judged[2] | {"sample": {"utterances": 6, "speakers": 4, "split": "dev"}}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(*benchmark.summary_tables(result))
    text = console.export_text()
    assert all(name in text for name in ("zero_shot", "single_lora", "moe_top1", "low", "middle", "high", "6 utterances of 4"))
    assert "0.0" in text and "30 s" in text


def test_routing_summary_by_hand():
    corpus = rows(4)
    corpus = corpus.remove_columns(["group", "text"]).add_column("group", ["a", "a", "b", "b"])
    corpus = corpus.add_column("text", ["red green", "blue", "big small", "sun"])
    experts = [benchmark.Row("expert_0", "30 s", ["red", "blue", "big small", "sun"], 1.0),
               benchmark.Row("expert_1", "30 s", ["red green", "x", "big", "sun"], 1.0)]
    gates = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    oracle = benchmark.oracle_choice(experts, corpus)
    summary = benchmark.routing_summary(gates, experts, oracle, corpus)
    assert summary["usage"] == [0.5, 0.5]
    assert summary["usage_per_group"] == {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    assert oracle.tolist() == [1, 0, 0, 0] and summary["as_good_as_oracle"] == 0.5  # the last is a tie
    assert summary["wer_of_each_expert"] == pytest.approx([1 / 6, 2 / 6])
    assert summary["gate_entropy"] == pytest.approx(float(-(gates * gates.log()).sum(-1).mean()))
    assert json.loads(json.dumps(summary)) == summary


def test_lines_per_utterance(tmp_path, judged):
    corpus, systems, _ = judged
    benchmark.write_transcripts(tmp_path / "t.jsonl", systems, corpus)
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == corpus["id"][:]
    assert lines[4]["moe_top1"] == lines[4]["reference"] == corpus[4]["text"]
    gates = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    benchmark.write_gates(tmp_path / "g.jsonl", gates, np.full(6, 2), corpus)
    lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert [line["expert"] for line in lines] == gates.argmax(-1).tolist() and {line["oracle_expert"] for line in lines} == {2}
    assert lines[1]["gates"] == pytest.approx(gates[1].tolist(), abs=1e-5)
