"""Combinations of the experts: each writes what its definition says, at its price."""

import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor

from hf_components.asr.transcriber import transcribe
from hf_components.moe.benchmark.combining import (
    ALL,
    COMBINATIONS,
    choose_combinations,
    gates_of_speakers,
    run_combinations,
    weights_of_combinations,
)
from hf_components.moe.benchmark.routing import corpus_gates, run_mixture
from hf_components.moe.benchmark.rows import Row
from hf_components.scoring.consensus import nearest_to_all, vote

pytestmark = pytest.mark.unit

OPTIONS = {"batch_size": 2, "num_beams": 1, "max_new_tokens": 6}
VARIED = 9  # seed of a mixture whose experts write different texts
BETA = 0.7


@pytest.fixture(scope="module")
def ran():
    """A mixture with all its combinations, on two speakers, one of them with two utterances, and unknown ones."""
    names = ["a", "unknown", "b", "a", "unknown", "a"]
    corpus, model = (
        rows(6).remove_columns("speaker_id").add_column("speaker_id", names),
        tiny_moe(VARIED, shared_expert=False),
    )
    settings = {"experts_per_utterance": 2, "mixture": "weights", "seed": 7}
    mixture = run_mixture(model, tiny_processor(), corpus, combine=COMBINATIONS, beta=BETA, **settings, **OPTIONS)
    return corpus, model, mixture, {row.name: row for row in mixture.combined}


def written(model, corpus, weights=None, **fields) -> list[str]:
    with model.override(**fields):
        return transcribe(model, tiny_processor(), corpus, expert_weights=weights, **OPTIONS)


def test_one_row_for_each_combination_and_its_price(ran):
    _, model, mixture, combined = ran
    assert {name: row.decodes for name, row in combined.items()} == {
        "moe_merge": 1,
        "moe_soft": 1,
        "moe_beta0.7": 1,
        "moe_speaker": 1,
        "moe_logits": 3,
        "moe_mbr": 3,
        "moe_rover": 3,
        "moe_choose": 4,  # nobody is sure of noise
    }
    assert [row.name for row in mixture.rows] == [
        "moe_merge",
        "moe_top1",
        "moe_top2_weights",
        *list(combined)[1:],
        "moe_random",
        "moe_oracle",
    ]
    assert (model.config.routing, model.config.mixture, model.config.beta) == ("hard", "weights", 1)  # as it was
    assert len({tuple(row.texts) for row in [*mixture.experts, *combined.values()]}) >= 6


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("moe_merge", {"mixture": "merge"}),
        ("moe_soft", {"routing": "soft"}),
        ("moe_beta0.7", {"beta": BETA}),
        ("moe_logits", {"routing": "soft", "mixture": "logits"}),
        ("moe_choose", {"mixture": "choose"}),
    ],
)
def test_a_combination_is_what_the_model_itself_writes_with_these_settings(ran, name, fields):
    corpus, model, _, combined = ran
    assert combined[name].texts == written(model, corpus, **fields)


def test_a_speaker_has_one_expert_and_unknown_ones_are_routed_one_by_one(ran):
    corpus, model, mixture, combined = ran
    gates = torch.from_numpy(mixture.gates)
    of_a = int(gates[[0, 3, 5]].mean(0).argmax())
    experts = [of_a, int(gates[1].argmax()), int(gates[2].argmax()), of_a, int(gates[4].argmax()), of_a]
    assert combined["moe_speaker"].texts == written(model, corpus, torch.eye(3)[experts])
    assert combined["moe_speaker"].texts == [mixture.experts[expert].texts[i] for i, expert in enumerate(experts)]


def test_texts_of_the_experts_are_combined(ran):
    _, _, mixture, combined = ran
    by_utterance = list(zip(*(row.texts for row in mixture.experts), strict=True))
    assert combined["moe_mbr"].texts == [texts[nearest_to_all(texts)] for texts in by_utterance]
    assert combined["moe_rover"].texts == [vote(texts) for texts in by_utterance]
    seconds = sum(row.seconds for row in mixture.experts)
    assert combined["moe_mbr"].seconds == combined["moe_rover"].seconds == seconds


def test_other_rows_are_those_without_combinations(ran):
    corpus, model, mixture, _ = ran
    plain = run_mixture(model, tiny_processor(), corpus, experts_per_utterance=2, mixture="weights", seed=7, **OPTIONS)
    assert plain.combined == []
    names = [row.name for row in plain.rows]
    assert names == ["moe_top1", "moe_top2_weights", "moe_random", "moe_oracle"]
    kept = {row.name: row.texts for row in mixture.rows}
    assert {row.name: row.texts for row in plain.rows} == {name: kept[name] for name in names}


def test_weights_by_hand():
    gates = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.4, 0.1, 0.5]])
    weights = weights_of_combinations(gates, ["a", "b", "a", "Unknown "], 0.4, torch.full((3,), 1 / 3))
    torch.testing.assert_close(weights["merge"], torch.full((4, 3), 1 / 3))
    assert weights["soft"] is weights["logits"] is gates
    torch.testing.assert_close(weights["beta"][0], torch.tensor([0.6, 0.2, 0.2]))
    torch.testing.assert_close(weights["beta"].sum(1), torch.ones(4))
    assert weights["speaker"].tolist() == torch.eye(3)[[1, 1, 1, 2]].tolist()  # a: 0.35, 0.55, 0.1
    means = gates_of_speakers(gates, ["a", "b", "a", "Unknown "])
    torch.testing.assert_close(means[[0, 2]], torch.tensor([[0.35, 0.55, 0.1]] * 2))
    assert torch.equal(means[[1, 3]], gates[[1, 3]])


def test_beside_a_shared_expert_the_plain_model_has_no_other(ran):
    corpus, _, mixture, _ = ran
    model = tiny_moe(VARIED)
    gates = torch.from_numpy(mixture.gates)
    combined = run_combinations(
        ["merge", "beta"],
        model,
        tiny_processor(),
        corpus,
        gates=gates,
        experts=mixture.experts,
        beta=BETA,
        **OPTIONS,
    )
    assert [row.name for row in combined] == ["moe_beta0.7"]  # the merge is the row of the shared expert
    weights = BETA * torch.nn.functional.one_hot(gates.argmax(-1), 3).float()
    assert combined[0].texts == written(model, corpus, weights)


def test_unknown_speakers_are_not_one_speaker():
    gates = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert torch.equal(gates_of_speakers(gates, ["unknown"] * 3), gates)
    assert torch.equal(gates_of_speakers(gates, ["", "unknown", "a"]), gates)


def test_a_mixture_saved_in_another_way_has_the_same_combinations(ran):
    corpus, model, mixture, combined = ran
    gates = corpus_gates(model, tiny_processor(), corpus, OPTIONS["batch_size"])
    for fields in ({"mixture": "logits", "routing": "soft"}, {"mixture": "choose"}, {"beta": 0.2}):
        with model.override(**fields):
            again = run_combinations(
                ["merge", "soft", "logits"],
                model,
                tiny_processor(),
                corpus,
                gates=gates,
                experts=mixture.experts,
                beta=BETA,
                **OPTIONS,
            )
        for row in again:
            assert (row.texts, row.decodes) == (combined[row.name].texts, combined[row.name].decodes)


def test_all_are_chosen_by_one_word_and_each_once():
    assert choose_combinations([ALL]) == choose_combinations([*COMBINATIONS, ALL, "soft"]) == list(COMBINATIONS)
    assert choose_combinations(["choose", "merge", "choose"]) == ["merge", "choose"]
    assert choose_combinations([]) == []


def test_texts_are_compared_in_their_language():
    experts = [Row(f"expert_{i}", "30 s", [text], 1.0, "tr") for i, text in enumerate(("bir", "ISI", "ısı"))]
    found = run_combinations(
        ["mbr", "rover"],
        None,
        None,
        rows(1),
        gates=torch.full((1, 3), 1 / 3),
        experts=experts,
        beta=BETA,
        **OPTIONS,
    )
    assert [(row.texts, row.language, row.audio_context) for row in found] == [(["ISI"], "tr", "30 s")] * 2
