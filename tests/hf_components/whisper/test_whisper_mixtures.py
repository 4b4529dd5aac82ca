"""Routings and mixtures against what they are defined as, in forward, greedy and beam search."""

import pytest
import torch
from tiny_whisper import EXPERTS, WINDOW, noise, one_hot, tiny_base, tiny_moe, tokens
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

pytestmark = pytest.mark.unit


class ExplicitEnsemble(WhisperForConditionalGeneration):
    """Sum of gate x probability over merged experts, each hearing the audio for itself at every step, without
    cache."""

    @classmethod
    def of(cls, moe, features, weights):
        model = cls(tiny_base().config).eval()
        model.generation_config = tiny_base().generation_config
        model.experts = [moe.merge_expert(i) for i in range(EXPERTS)]
        model.features, model.weights = features, weights
        return model

    def forward(self, decoder_input_ids=None, **kwargs):
        copies = decoder_input_ids.shape[0] // self.features.shape[0]
        features, weights = (x.repeat_interleave(copies, 0) for x in (self.features, self.weights))
        mixed = sum(
            weights[:, i, None, None] * expert(features, decoder_input_ids=decoder_input_ids).logits.softmax(-1)
            for i, expert in enumerate(self.experts)
        )
        return Seq2SeqLMOutput(logits=mixed.log())


def routed(routing: str, gates: torch.Tensor, k: int = 2) -> torch.Tensor:
    """The definition, row by row."""
    if routing == "soft":
        return gates
    kept = torch.zeros_like(gates)
    for row, gate in enumerate(gates):
        for expert in sorted(range(EXPERTS), key=lambda i: -gate[i])[: 1 if routing == "hard" else k]:
            kept[row, expert] = gate[expert]
    return kept / kept.sum(-1, keepdim=True)


@pytest.mark.parametrize("routing", ["hard", "top_k", "soft"])
@pytest.mark.parametrize("mixture", ["weights", "logits"])
def test_weights_follow_their_definition(routing, mixture):
    model = tiny_moe(routing=routing, mixture=mixture)
    with torch.no_grad():
        output = model(noise(5, WINDOW), labels=tokens(5, 6))
    assert output.gates.argmax(-1).unique().numel() > 1 and output.gates.max() < 0.99  # nothing trivial
    torch.testing.assert_close(output.gates, output.router_logits.softmax(-1))
    torch.testing.assert_close(output.expert_weights, routed(routing, output.gates))
    torch.testing.assert_close(output.expert_weights.sum(-1), torch.ones(5))


def test_routings_agree_where_one_expert_is_left():
    features, labels = noise(3, WINDOW), tokens(3, 6)
    model = tiny_moe(routing="hard")
    with torch.no_grad():
        hard = model(features, labels=labels).logits
        for mixture in ("weights", "logits"):
            with model.override(routing="top_k", experts_per_utterance=1, mixture=mixture):
                one = model(features, labels=labels).logits
            reference = hard if mixture == "weights" else hard.log_softmax(-1)
            torch.testing.assert_close(one, reference, atol=1e-5, rtol=1e-5)
        with model.override(routing="top_k", experts_per_utterance=EXPERTS):
            every = model(features, labels=labels).logits
        with model.override(routing="soft"):
            torch.testing.assert_close(model(features, labels=labels).logits, every, atol=1e-5, rtol=1e-5)
    assert model.config.routing == "hard"


@pytest.mark.parametrize("routing", ["top_k", "soft", "given"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shared_expert": True},
        {"router_layer": 3, "shared_expert": True},
        {"router_layer": 3, "target_modules": ["fc1", "q_proj"]},
    ],
)
def test_logits_mixture_is_the_explicit_ensemble(routing, config):
    features = noise(3, WINDOW)
    given = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0], [0, 0.5, 0.5, 0]]) if routing == "given" else None
    model = tiny_moe(routing="hard" if routing == "given" else routing, mixture="logits", **config)
    weights = given if given is not None else routed(routing, model.route(features))
    reference = ExplicitEnsemble.of(model, features, weights)
    ids = torch.tensor([[91, 4, 17, 33]]).expand(3, -1)
    with torch.no_grad():
        ours = model(features, decoder_input_ids=ids, expert_weights=given).logits
        theirs = reference(decoder_input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.exp().sum(-1), torch.ones(3, 4))
    for options in ({}, {"num_beams": 4}, {"num_beams": 4, "num_return_sequences": 2}):
        options = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True, **options}
        ours = model.generate(features, expert_weights=given, **options)
        theirs = reference.generate(features, use_cache=False, **options)
        assert torch.equal(ours.sequences, theirs.sequences)
        if "num_beams" in options:
            torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, atol=1e-4, rtol=1e-4)
    weighted = tiny_moe(routing="soft", **config).generate(features, expert_weights=weights, max_new_tokens=8)
    assert not torch.equal(weighted, ours.sequences[::2, 1:])  # the other mixture is another model


def test_one_hot_logits_mixture_is_that_expert():
    model, features, labels = tiny_moe(mixture="logits"), noise(2, WINDOW), tokens(2, 5)
    with torch.no_grad():
        for expert in range(EXPERTS):
            mixed = model(features, labels=labels, expert_weights=one_hot(expert, 2)).logits
            alone = model.merge_expert(expert)(features, labels=labels).logits.log_softmax(-1)
            torch.testing.assert_close(mixed, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mixture", ["weights", "logits"])
def test_cached_steps_equal_one_forward(mixture):
    model, features = tiny_moe(routing="soft", mixture=mixture), noise(2, WINDOW)
    ids = torch.tensor([[91, 3, 60, 22, 8], [91, 5, 1, 70, 9]])
    with torch.no_grad():
        whole = model(features, decoder_input_ids=ids).logits
        encoded, cache, steps = model.get_encoder()(features), None, []
        for step in range(ids.shape[1]):
            output = model(
                encoder_outputs=encoded,
                decoder_input_ids=ids[:, step : step + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)
