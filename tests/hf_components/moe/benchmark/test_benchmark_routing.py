"""Rows of a mixture: the router's, at random, by errors; and the summary of what the router chooses."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor

from hf_components.asr.transcriber import transcribe
from hf_components.moe.benchmark.routing import Mixture, corpus_gates, random_experts, routing_summary, run_mixture
from hf_components.moe.benchmark.rows import Row
from hf_components.scoring.consensus import disagreement
from hf_components.scoring.error_rates import score, utterance_errors

pytestmark = pytest.mark.unit

OPTIONS = {"batch_size": 2, "num_beams": 1, "max_new_tokens": 6}
VARIED = 9  # seed of a mixture whose experts, and the shared one alone, write different texts


@pytest.fixture(scope="module")
def ran():
    """A mixture whose experts write different texts, with references that each of them gets right once."""
    corpus, model = rows(6), tiny_moe(VARIED)
    texts = [
        transcribe(model, tiny_processor(), corpus, expert_weights=torch.eye(3)[i].expand(6, -1), **OPTIONS)
        for i in range(3)
    ]
    corpus = corpus.remove_columns("text").add_column("text", [texts[i % 3][i] for i in range(6)])
    mixture = run_mixture(
        model, tiny_processor(), corpus, experts_per_utterance=2, mixture="logits", seed=7, **OPTIONS
    )
    return corpus, model, texts, mixture


def test_the_router_decides_its_rows(ran):
    corpus, model, texts, mixture = ran
    assert [row.name for row in mixture.rows] == [
        "moe_shared",
        "moe_top1",
        "moe_top2_logits",
        "moe_random",
        "moe_oracle",
    ]
    assert list(mixture.routed) == list(mixture.weights) == ["top1", "topk2"]
    gates = corpus_gates(model, tiny_processor(), corpus, 2).numpy()
    np.testing.assert_array_equal(mixture.gates, gates)
    np.testing.assert_array_equal(mixture.weights["top1"], np.eye(3)[gates.argmax(1)])
    assert mixture.routed["top1"].texts == [texts[expert][i] for i, expert in enumerate(gates.argmax(1))]
    second_best = np.sort(gates, axis=1)[:, -2:-1]
    kept = np.where(gates >= second_best, gates, 0)
    np.testing.assert_allclose(mixture.weights["topk2"], kept / kept.sum(1, keepdims=True), rtol=1e-6)
    with model.override(routing="top_k", experts_per_utterance=2, mixture="logits"):
        assert mixture.routed["topk2"].texts == transcribe(model, tiny_processor(), corpus, **OPTIONS)
    assert model.config.routing == "hard" and model.config.mixture == "weights"  # as it was


def test_the_best_expert_is_alone_however_the_model_is_saved(ran):
    corpus, model, _, mixture = ran
    for fields in ({"mixture": "merge"}, {"mixture": "choose"}, {"beta": 0.5}):
        with model.override(**fields):
            again = run_mixture(
                model, tiny_processor(), corpus, experts_per_utterance=2, mixture="weights", seed=7, **OPTIONS
            )
        np.testing.assert_array_equal(again.weights["top1"], mixture.weights["top1"])
        np.testing.assert_array_equal(again.weights["topk2"], mixture.weights["topk2"])
        assert again.routed["top1"].texts == mixture.routed["top1"].texts
        assert [row.texts for row in again.experts] == [row.texts for row in mixture.experts]


def test_the_shared_expert_alone_is_the_mixture_without_its_experts(ran):
    corpus, _, texts, mixture = ran
    model = tiny_moe(VARIED)
    with torch.no_grad():
        for layer in model.routed_layers().values():
            layer.lora_b[:-1].zero_()  # all but the shared one, which is the last
    assert mixture.shared.texts == transcribe(model, tiny_processor(), corpus, **OPTIONS)
    assert mixture.shared.texts not in texts


def test_a_single_expert_leaves_top_k_out_and_the_row_of_the_shared_one_needs_one():
    corpus = rows(2)
    model = tiny_moe(shared_expert=False)
    mixture = run_mixture(
        model, tiny_processor(), corpus, experts_per_utterance=1, mixture="weights", seed=7, **OPTIONS
    )
    assert [row.name for row in mixture.rows] == ["moe_top1", "moe_random", "moe_oracle"]


def test_each_expert_is_decoded_once_and_used_for_lot_and_oracle(ran):
    corpus, _, texts, mixture = ran
    assert [row.texts for row in mixture.experts] == texts and len({tuple(row) for row in texts}) == 3
    errors = np.stack([utterance_errors(row, corpus["text"][:])["errors"] for row in texts])
    assert mixture.oracle.tolist() == errors.argmin(0).tolist() and len(set(mixture.oracle)) > 1
    *_, by_lot, oracle = mixture.rows
    assert score(oracle.texts, corpus["text"], num_bootstrap=0)["wer"] == 0
    assert by_lot.texts == [texts[expert][i] for i, expert in enumerate(random_experts(corpus["id"][:], 3, seed=7))]
    seconds = [row.seconds for row in mixture.experts]
    assert (oracle.decodes, by_lot.decodes) == (3, 1)
    assert oracle.seconds == pytest.approx(sum(seconds)) and by_lot.seconds == pytest.approx(sum(seconds) / 3)


def test_the_lot_depends_on_seed_and_id_alone():
    ids = [f"utterance {i}" for i in range(3000)]
    drawn = random_experts(ids, 4, seed=1)
    assert random_experts(ids[::-1], 4, seed=1).tolist() == drawn[::-1].tolist()
    assert random_experts(ids[7:8], 4, seed=1) == drawn[7:8]
    assert (random_experts(ids, 4, seed=2) == drawn).mean() == pytest.approx(1 / 4, abs=0.03)
    assert np.bincount(drawn) / len(ids) == pytest.approx(np.full(4, 1 / 4), abs=0.03)


def test_gates_come_in_the_order_of_the_corpus():
    corpus, model = rows(5), tiny_moe(min_audio_context=400)  # one context for all, so that batches do not matter
    gates = corpus_gates(model, tiny_processor(), corpus, batch_size=2)
    alone = torch.cat([corpus_gates(model, tiny_processor(), corpus.select([i]), 1) for i in range(5)])
    torch.testing.assert_close(gates, alone)


def test_summary_by_hand():
    corpus = rows(4).remove_columns(["group", "text"]).add_column("group", ["a", "a", "b", "b"])
    corpus = corpus.add_column("text", ["red green", "blue", "big small", "sun"])
    experts = [
        Row("expert_0", "30 s", ["red", "blue", "big small", "sun"], 1.0),
        Row("expert_1", "30 s", ["red green", "x", "big", "sun"], 1.0),
        Row("expert_2", "30 s", ["x", "blue", "x", "x y"], 1.0),
    ]
    gates = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.3, 0.7, 0.0]])
    errors = np.stack([utterance_errors(row.texts, corpus["text"][:])["errors"] for row in experts])
    top_2 = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0], [0.3, 0.7, 0]])
    mixture = Mixture(
        None,
        {},
        {"top1": np.eye(3)[gates.argmax(1)], "topk2": top_2},
        experts,
        gates,
        errors,
        errors.argmin(0),
        np.zeros(4, int),
    )
    assert mixture.oracle.tolist() == [1, 0, 0, 0]  # after normalising; the first of equals

    summary = routing_summary(mixture, "top1", corpus)
    assert summary["usage"] == [0.5, 0.5, 0]
    assert summary["usage_per_group"] == {"a": [0.5, 0.5, 0], "b": [0.5, 0.5, 0]}
    assert summary["oracle_chosen"] == 0.25 and summary["as_good_as_oracle"] == 0.5  # the last utterance is a tie
    best = [{1}, {0, 2}, {0}, {0, 1}]
    assert summary["as_good_by_chance"] == pytest.approx(sum(map(len, best)) / 12)
    assert summary["wer_of_each_expert"] == pytest.approx([1 / 6, 2 / 6, 6 / 6])
    assert summary["oracle_wer"] == 0
    assert summary["disagreement"] == disagreement([row.texts for row in experts]) > 0
    assert summary["gate_entropy"] == pytest.approx(-(gates * np.log(gates + 1e-12)).sum(1).mean(), abs=1e-6)
    assert json.loads(json.dumps(summary)) == summary

    pairs = list(combinations(range(3), 2))
    by_lot = np.mean([np.mean([bool(experts & set(pair)) for pair in pairs]) for experts in best])
    summary = routing_summary(mixture, "topk2", corpus)
    assert summary["usage"] == pytest.approx(top_2.mean(0)) and summary["oracle_chosen"] == 1
    assert summary["as_good_as_oracle"] == 1 and summary["as_good_by_chance"] == pytest.approx(by_lot)
