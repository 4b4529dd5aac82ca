"""Rows of a benchmark: run, scored, compared with the baselines."""

import json

import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper

from hf_components.asr.transcriber import transcribe
from hf_components.moe.benchmark import rows as module
from hf_components.moe.benchmark.rows import CHANCE, Row, count_decodes, run_row, score_rows
from hf_components.scoring.error_rates import compare, score

pytestmark = pytest.mark.unit

OPTIONS = {"batch_size": 2, "num_beams": 1, "max_new_tokens": 6}


def test_a_row_is_the_transcript_of_the_sample():
    corpus, model = rows(5), tiny_moe()
    weights = torch.eye(3)[[0, 1, 2, 0, 1]]
    row = run_row("moe", model, tiny_processor(), corpus, expert_weights=weights, **OPTIONS)
    assert row.texts == transcribe(model, tiny_processor(), corpus, expert_weights=weights, **OPTIONS)
    assert (row.name, row.audio_context) == ("moe", ">= 0.5 s") and row.seconds > 0
    assert run_row("full", tiny_whisper(), tiny_processor(), rows(1), **OPTIONS).audio_context == "30 s"


def test_the_clock_starts_after_the_first_pass(monkeypatch):
    now, model = [0.0], tiny_whisper()
    generate = model.generate

    def slow_at_first(features, **options):
        now[0] += 100.0 if now[0] == 0 else 1.0
        return generate(features, **options)

    monkeypatch.setattr(model, "generate", slow_at_first)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    assert run_row("a", model, tiny_processor(), rows(4), **OPTIONS).seconds == 2.0  # two batches


def test_the_price_is_how_often_an_utterance_is_decoded():
    model = tiny_moe()
    weights = torch.eye(3)
    assert count_decodes(tiny_whisper()) == count_decodes(model) == count_decodes(model, weights) == 1
    for fields, alone, given in (
        ({"mixture": "merge"}, 1, 1),
        ({"routing": "soft"}, 1, 1),
        ({"mixture": "logits"}, 1, 3),  # hard routing: one expert, unless weights are given
        ({"mixture": "logits", "routing": "top_k"}, 2, 3),
        ({"mixture": "logits", "routing": "soft"}, 3, 3),
        ({"mixture": "choose"}, 4, 1),  # at most; a run measures how often the experts were asked
    ):
        with model.override(**fields):
            assert (count_decodes(model), count_decodes(model, weights)) == (alone, given), fields


@pytest.fixture
def judged():
    corpus = rows(6)
    perfect = corpus["text"][:]
    names = ("zero_shot", "single_lora", "single_lora_wide", "full", "soup", "moe_top1")
    systems = [Row(name, "30 s", perfect[:i] + ["wrong"] * (6 - i), 2.0) for i, name in enumerate(names)]
    return corpus, systems, score_rows(systems, corpus, num_bootstrap=50, seed=3)


def test_every_row_is_scored(judged):
    corpus, systems, result = judged
    assert list(result["rows"]) == [system.name for system in systems]
    for system in systems:
        expected = score(system.texts, corpus["text"], corpus["group"], corpus["speaker_id"], num_bootstrap=50, seed=3)
        assert {key: result["rows"][system.name][key] for key in expected} == expected
    row, seconds = result["rows"]["zero_shot"], sum(corpus["duration"])
    assert row["decodes"] == 1
    assert (row["audio_context"], row["seconds"]) == ("30 s", 2.0) and row["audio_seconds"] == pytest.approx(
        seconds, abs=0.01
    )
    assert row["real_time_factor"] == pytest.approx(2 / seconds, abs=1e-4)
    assert json.loads(json.dumps(result)) == result


def test_every_row_is_compared_with_every_baseline_before_it(judged):
    corpus, systems, result = judged
    pairs = [(line["a"], line["b"]) for line in result["differences"]]
    baselines = ["zero_shot", "single_lora", "single_lora_wide", "full"]
    assert pairs == [
        *((before, name) for i, name in enumerate(baselines) for before in baselines[:i]),
        *((name, "soup") for name in baselines),
        *((name, "moe_top1") for name in baselines),
    ]
    last = compare(systems[3].texts, systems[5].texts, corpus["text"], corpus["speaker_id"], num_bootstrap=50, seed=3)
    assert result["differences"][-1] == {"a": "full", "b": "moe_top1", **last} and last["difference"] < 0
    assert result["bootstrap"] == {"resamples": 50, "unit": "speaker", "confidence": 0.95, "seed": 3}


def test_the_mixture_is_compared_with_an_expert_at_random_as_expected_over_all_draws():
    corpus = rows(4)
    perfect, wrong = corpus["text"][:], ["wrong"] * 4
    systems = [Row(name, "30 s", perfect, 1.0) for name in ("full", "moe_shared", "moe_top1")]
    experts = [Row("expert_0", "", perfect, 0.0), Row("expert_1", "", wrong, 0.0)]
    found = score_rows(systems, corpus, experts, num_bootstrap=50, seed=0)["differences"]
    (line,) = [line for line in found if line["a"] == CHANCE]
    of_wrong = score(wrong, perfect, num_bootstrap=0)["wer"]
    assert line["b"] == "moe_top1" and line["wer_a"] == pytest.approx(of_wrong / 2)
    assert line["difference"] == pytest.approx(-of_wrong / 2) and line["interval"][1] < 0


def test_with_disfluencies_every_row_is_scored_by_the_rules_of_the_challenge_too():
    plain = rows(3)
    systems = [Row("full", "30 s", ["um yes", "no", "go on"], 1.0)]
    same = plain.add_column("references", [["yes", "yes"], ["no", "no"], ["go on", "go on"]])
    assert "sap" not in score_rows(systems, same, num_bootstrap=5, seed=0)["rows"]["full"]
    marked = plain.add_column("references", [["um yes", "yes"], ["unk", "unk"], ["go down", "go down"]])
    result = score_rows(systems, marked, num_bootstrap=5, seed=0)
    assert result["rows"]["full"]["sap"]["wer"] == pytest.approx(1 / 4)  # "down" of "um yes unk go down"
    assert json.loads(json.dumps(result)) == result


def test_baselines_that_did_not_run_are_not_compared_with():
    corpus = rows(3)
    systems = [Row(name, "30 s", ["x"] * 3, 1.0) for name in ("full", "moe_top1")]
    result = score_rows(systems, corpus, num_bootstrap=5, seed=0)
    assert [(line["a"], line["b"]) for line in result["differences"]] == [("full", "moe_top1")]
    assert score_rows(systems[1:], corpus, num_bootstrap=5, seed=0)["differences"] == []
