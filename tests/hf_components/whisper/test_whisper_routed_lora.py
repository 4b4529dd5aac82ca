"""Routed layers against their definition, whichever way they compute it, and what a decoder's steps may keep."""

import pytest
import torch
from tiny_whisper import EXPERTS, WINDOW, noise, one_hot, tiny_moe
from torch import nn

from hf_components.whisper.routed_lora import GATHER_FROM, RoutedLinear, RoutingState

pytestmark = pytest.mark.unit
LENGTHS = pytest.mark.parametrize("time", [1, GATHER_FROM - 1, GATHER_FROM, 3 * GATHER_FROM])
WEIGHTS = {
    "one-hot": torch.eye(4)[:3],
    "two": torch.tensor([[0.3, 0, 0.7, 0], [0, 0, 0.5, 0.5], [1.5, 0, 0, 0.1]]),
    "soft": torch.rand(3, 4, generator=torch.Generator().manual_seed(0)),
    "none": torch.zeros(3, 4),
    "some rows": torch.tensor([[0.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]),
}


def routed(shared_expert: bool = False) -> RoutedLinear:
    torch.manual_seed(0)
    layer = RoutedLinear(nn.Linear(6, 5), EXPERTS + shared_expert, 3, 2.0, 0.0, RoutingState(shared_expert))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def defined(layer: RoutedLinear, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Row by row and expert by expert."""
    if layer.state.shared_expert:
        weights = torch.cat([weights, torch.ones(len(weights), 1)], dim=1)
    rows = []
    for row, own in zip(inputs, weights, strict=True):
        merged = layer.plain_weight + layer.scaling * sum(
            w * b @ a for w, a, b in zip(own, layer.lora_a, layer.lora_b, strict=True)
        )
        rows.append(row @ merged.T + layer.linear.bias)
    return torch.stack(rows)


@LENGTHS
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shared_expert", [False, True])
@pytest.mark.parametrize("routed_gradient", [False, True])
def test_output_and_gradients_follow_the_definition(time, kind, shared_expert, routed_gradient):
    layer = routed(shared_expert)
    inputs = torch.randn(3, time, 6, requires_grad=True)
    weights = WEIGHTS[kind].clone().requires_grad_(routed_gradient)
    wanted = [inputs, layer.lora_a, layer.lora_b, layer.plain_weight] + [weights] * routed_gradient
    layer.state.set(weights)
    ours, theirs = layer(inputs), defined(layer, inputs, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    direction = torch.randn_like(ours)
    for own, reference in zip(
        torch.autograd.grad(ours, wanted, direction), torch.autograd.grad(theirs, wanted, direction), strict=True
    ):
        torch.testing.assert_close(own, reference, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(layer(inputs), theirs, atol=1e-4, rtol=1e-4)


@LENGTHS
def test_half_precision_and_autocast(time):
    layer, inputs, weights = routed(), torch.randn(3, time, 6), WEIGHTS["two"]
    layer.state.set(weights)
    expected = defined(layer, inputs, weights)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(inputs)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, atol=0.3, rtol=0.05)
    with torch.no_grad():
        layer.state.set(weights)
        torch.testing.assert_close(layer.bfloat16()(inputs.bfloat16()).float(), expected, atol=0.3, rtol=0.05)


def test_only_a_continued_decode_keeps_what_layers_stacked():
    layer, inputs, weights = routed(), torch.randn(3, 1, 6), WEIGHTS["two"]
    with torch.no_grad():
        layer.state.set(weights)
        layer(inputs)
        kept = layer.state.current.stacked[layer]
        assert kept[0].shape == (9, 6)  # three experts of rank three: the second one has no weight in any row
        layer.state.set(weights, continues=True)
        layer(inputs)
        assert layer.state.current.stacked[layer] is kept
        for again in ({"expert_weights": weights}, {"expert_weights": weights.clone(), "continues": True}):
            layer.state.set(**again)
            assert not layer.state.current.stacked
            layer(inputs)
    layer.state.set(weights)
    layer(inputs)
    assert not layer.state.current.stacked  # what has gradients is made anew


def test_changed_weights_are_heard_by_the_next_forward():
    model, ids = tiny_moe(), torch.tensor([[91, 3]])
    with torch.no_grad():
        encoded = model.get_encoder()(noise(1, WINDOW))
        before = model(encoder_outputs=encoded, decoder_input_ids=ids).logits
        for layer in model.routed_layers().values():
            layer.lora_b.mul_(2)
        assert (model(encoder_outputs=encoded, decoder_input_ids=ids).logits - before).abs().max() > 0.1


def test_two_decodes_in_turn_do_not_mix():
    model = tiny_moe()
    ids = torch.tensor([[91, 3, 60, 22]])

    def steps(expert: int):
        encoded, cache = model.get_encoder()(noise(1, WINDOW), expert_weights=one_hot(expert)), None
        for step in range(ids.shape[1]):
            output = model(
                encoder_outputs=encoded,
                decoder_input_ids=ids[:, step : step + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            yield output.logits

    with torch.no_grad():
        alone = [torch.cat(list(steps(expert))) for expert in (0, 2)]
        together = [torch.cat(logits) for logits in zip(*zip(steps(0), steps(2), strict=True), strict=True)]
    assert (alone[0] - alone[1]).abs().max() > 0.1
    for own, both in zip(alone, together, strict=True):
        torch.testing.assert_close(both, own)
