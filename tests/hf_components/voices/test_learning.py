"""Learning a voice: what moves, what is chosen, and that the same sentences give the same bits."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper

from hf_components.checkpoints.voices import CONTEXT, LORA, NO_CHANGE, VOTE, WEIGHTS, read_voice, save_voice
from hf_components.runtime.errors import UserError
from hf_components.voices import context
from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.batches import Batches
from hf_components.voices.choosing import Candidate, choose, folds_of
from hf_components.voices.learning import learn_voice
from hf_components.voices.lora import LoraTraining, planned_steps
from hf_components.voices.placing import losses_of_model, losses_of_weights, merged, weights_to_try
from hf_components.voices.sentences import Sentence, sentences_of_rows

pytestmark = pytest.mark.unit

FAST = VoiceArguments(
    voice_rank=2, voice_in="both", voice_learning_rate=0.01, voice_marks=[2, 4], voice_scales=[0.5, 1.0], max_folds=3
)


def sentences(count: int = 4) -> list[Sentence]:
    words = ("red cat", "green dog", "blue sun", "the moon", "a cat", "the dog")
    return [dataclasses.replace(one, text=words[number]) for number, one in enumerate(sentences_of_rows(rows(count)))]


def test_the_same_sentences_give_the_same_bits():
    torch.manual_seed(1)
    first = learn_voice(tiny_whisper(), tiny_processor(), "anna", sentences(), FAST, seed=3)
    torch.manual_seed(2)
    np.random.seed(5)
    second = learn_voice(tiny_whisper(), tiny_processor(), "anna", sentences(), FAST, seed=3)
    assert first.candidates == second.candidates
    for name, (a, b) in first.of_way[LORA].lora.items():
        assert torch.equal(a, second.of_way[LORA].lora[name][0])
        assert torch.equal(b, second.of_way[LORA].lora[name][1])


def test_the_base_stays_as_it_is_and_the_lora_moves():
    model = tiny_whisper()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = [p.requires_grad for p in model.parameters()]
    learned = learn_voice(model, tiny_processor(), "anna", sentences(), FAST, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(p.grad is None for p in model.parameters())
    assert all(b.any() for _, b in learned.of_way[LORA].lora.values())


def test_folds_do_not_see_each_other_or_what_is_held_out():
    """The LoRA of a fold is the one that is trained alone on the same sentences."""
    model = tiny_whisper()
    batches = Batches(model, tiny_processor(), sentences(), seed=3)
    settings = FAST.settings(model.config.encoder_layers)
    together = LoraTraining(model, batches, [[0, 1], [2, 3], [0, 1, 2, 3]], settings, seed=3)
    alone = LoraTraining(model, batches, [[2, 3]], settings, seed=3)
    for training in (together, alone):
        assert list(training.steps([3])) == [3]
    for name, (a, b) in alone.lora(0).items():
        torch.testing.assert_close(together.lora(1)[name][0], a, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(together.lora(1)[name][1], b, rtol=1e-3, atol=1e-5)


def test_training_lowers_the_loss_of_its_sentences():
    model = tiny_whisper()
    batches = Batches(model, tiny_processor(), sentences(), seed=3)
    training = LoraTraining(model, batches, [[0, 1, 2, 3]], FAST.settings(3), seed=3)
    before = training.losses([(0, row) for row in range(4)]).sum()
    np.testing.assert_allclose(before, losses_of_model(model, batches).sum(), rtol=1e-4)
    list(training.steps([8]))
    assert training.losses([(0, row) for row in range(4)]).sum() < before
    half = training.losses([(0, row) for row in range(4)], 0.5).sum()
    assert half != training.losses([(0, row) for row in range(4)]).sum()


@pytest.mark.parametrize("shared", [True, False])
def test_weights_over_experts_are_their_merge(shared):
    model = tiny_moe(shared_expert=shared, router_layer=1)
    batches = Batches(model, tiny_processor(), sentences(), seed=3)
    weights = [0.2, 0.5, 0.3]
    losses = losses_of_weights(model, batches, [weights, model.config.plain_weights])
    np.testing.assert_allclose(losses_of_model(merged(model, weights), batches), losses[0], rtol=1e-3)
    assert model.config.plain_weights in weights_to_try(model)


def test_a_mixture_has_all_ways_and_saves_them(tmp_path, monkeypatch):
    monkeypatch.setattr(context, "UNHEARD", 100.0)
    model = tiny_moe(router_layer=1)
    learned = learn_voice(model, tiny_processor(), "anna", sentences(), FAST, seed=3, others=sentences(6)[4:])
    assert set(learned.of_way) == {WEIGHTS, CONTEXT, LORA, VOTE} and set(learned.controls) == {CONTEXT, LORA, VOTE}
    assert {row["way"] for row in learned.candidates} == {NO_CHANGE, WEIGHTS, LORA}
    for way, voice in learned.of_way.items():
        save_voice(voice, tmp_path / way)
        found = read_voice(tmp_path / way)
        assert (found.way, found.expert_weights, found.sentences) == (way, voice.expert_weights, 4)
        assert way not in (LORA, VOTE) or found.lora.keys() == voice.lora.keys()
        assert way not in (CONTEXT, VOTE) or found.example_texts == voice.example_texts
        for one, other in zip(found.examples, voice.examples, strict=True):
            assert np.abs(one - other).max() < 1e-4


def test_where_the_model_errs_it_votes_with_examples_and_lora(monkeypatch):
    monkeypatch.setattr(context, "UNHEARD", 100.0)
    learned = learn_voice(tiny_whisper(), tiny_processor(), "anna", sentences(), FAST, seed=3)
    assert learned.voice.way == VOTE and learned.voice.figures["errors_before"] > 0
    assert learned.voice.example_texts == learned.of_way[CONTEXT].example_texts
    for name, (a, b) in learned.voice.lora.items():
        assert a.dtype == b.dtype == torch.float16
        assert torch.equal(a, learned.of_way[LORA].lora[name][0])


@pytest.mark.parametrize(("ways", "expected"), [(["lora"], {LORA}), (["context"], {CONTEXT})])
def test_one_way_alone_does_not_vote(ways, expected, monkeypatch):
    monkeypatch.setattr(context, "UNHEARD", 100.0)
    asked = dataclasses.replace(FAST, ways=ways)
    learned = learn_voice(tiny_whisper(), tiny_processor(), "anna", sentences(), asked, seed=3)
    assert set(learned.of_way) == expected and learned.voice.way != VOTE


def test_one_sentence_changes_nothing():
    learned = learn_voice(tiny_whisper(), tiny_processor(), "anna", sentences(1), FAST, seed=3)
    assert learned.voice.way == NO_CHANGE and learned.of_way[LORA].lora is not None


def test_no_sentence_is_an_error():
    with pytest.raises(UserError, match="needs at least one sentence"):
        learn_voice(tiny_whisper(), tiny_processor(), "anna", [], FAST, seed=3)


def test_a_long_sentence_is_named():
    long = Sentence("x.wav", np.zeros(16_000 * 28, np.float32), "red")
    with pytest.raises(UserError, match="x.wav has 28 s, and a sentence may have 27"):
        Batches(tiny_whisper(), tiny_processor(), [long], seed=0)


def candidate(way: str, *losses: float, **fields) -> Candidate:
    return Candidate(way, np.array(losses), **fields)


TOKENS = np.array([10, 10, 10, 10])


def test_a_surely_better_way_is_chosen():
    options = [candidate(NO_CHANGE, 10, 12, 11, 10), candidate(LORA, 5, 6, 6, 5, step=4)]
    assert choose(options, TOKENS, min_gain=0.01, certainty=1).way == LORA


@pytest.mark.parametrize("lora", [(10, 12, 11, 10), (2, 20, 2, 19), (11, 13, 12, 11)])
def test_no_change_stays_if_nothing_is_surely_better(lora):
    options = [candidate(NO_CHANGE, 10, 12, 11, 10), candidate(LORA, *lora, step=4)]
    assert choose(options, TOKENS, min_gain=0.01, certainty=1).way == NO_CHANGE


def test_ties_go_to_the_cheaper_way():
    options = [
        candidate(NO_CHANGE, 10, 12, 11, 10),
        candidate(WEIGHTS, 6, 7, 6, 6),
        candidate(LORA, 6, 7, 6, 5.9, step=4),
    ]
    assert choose(options, TOKENS, min_gain=0.01, certainty=1).way == WEIGHTS


def test_folds_hold_out_every_sentence_once_and_equal_ones_together():
    folds = folds_of(["a", "b", "a", "c", "d"], 5, seed=0)
    assert sorted(row for fold in folds for row in fold) == [0, 1, 2, 3, 4]
    assert any({0, 2} <= set(fold) for fold in folds) and len(folds) == 4
    assert folds_of(["a", "a"], 5, seed=0) == []
    assert len(folds_of([str(i) for i in range(20)], 5, seed=0)) == 5


def test_a_budget_of_time_is_one_of_steps():
    model = tiny_whisper()
    assert planned_steps(model, 10.0, 20, 1e-9) == 1
    assert planned_steps(model, 10.0, 20, 1e9) == 20
