"""Phases, temperature and routing losses."""

import pytest
import torch
from parsing import parse

from hf_components.moe.curriculum import RoutingArguments, routing_losses
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


def test_phases_by_epoch():
    routing = RoutingArguments(soft_routing_epochs=1.5, topk_routing_epochs=1).routing
    assert [routing(epoch) for epoch in (0, 1.4, 1.5, 2.4, 2.5, 9)] == [
        "soft",
        "soft",
        "top_k",
        "top_k",
        "hard",
        "hard",
    ]
    assert RoutingArguments(soft_routing_epochs=0, topk_routing_epochs=0).routing(0) == "hard"


def test_temperature_falls_geometrically_to_its_floor():
    temperature = RoutingArguments(routing_temperature_start=4, routing_temperature_end=1).temperature
    assert [temperature(p) for p in (0, 0.5, 1)] == pytest.approx([4, 2, 1])
    floored = RoutingArguments(routing_temperature_start=4, routing_temperature_end=0.1).temperature
    assert floored(0.1) > 0.5 and floored(0.9) == floored(1) == 0.5


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("routing_temperature_min", 0, "be above 0"),
        ("routing_temperature_start", 0, "be above 0"),
        ("routing_temperature_end", -1, "be above 0"),
        ("routing_alignment_tau", 0, "be above 0"),
        ("usage_momentum", 1, r"lie in \[0, 1\)"),
        ("router_noise_std", -0.1, "be at least 0"),
        ("min_expert_usage_fraction", -0.1, r"lie in \[0, 1\)"),
    ],
)
def test_values_out_of_range_are_named(field, value, rule):
    with pytest.raises(UserError, match=f"^--{field} must {rule}, got {value}$"):
        parse(RoutingArguments, **{field: value})


def test_losses_against_their_formulas():
    gates = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64, requires_grad=True)
    usage = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expert_losses = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.4, 0.3]], dtype=torch.float64, requires_grad=True)
    losses = routing_losses(gates, usage, expert_losses, tau=0.5)
    for row in range(2):
        g = gates[row].detach()
        target = torch.exp(-expert_losses[row] / 0.5) / torch.exp(-expert_losses[row] / 0.5).sum()
        assert losses["load_balance"][row].item() == pytest.approx((3 * (g * usage).sum()).item())
        assert losses["entropy"][row].item() == pytest.approx(float(torch.distributions.Categorical(g).entropy()))
        divergence = torch.nn.functional.kl_div(g.log(), target.detach(), reduction="sum")
        assert losses["alignment"][row].item() == pytest.approx(float(divergence))
    losses["alignment"].sum().backward()
    assert expert_losses.grad is None and gates.grad.abs().sum() > 0


def test_balanced_gates_cost_one_and_equal_distributions_nothing():
    even = torch.full((2, 4), 0.25)
    losses = routing_losses(even, torch.full((4,), 0.25), torch.ones(2, 4), tau=0.1)
    torch.testing.assert_close(losses["load_balance"], torch.ones(2))
    torch.testing.assert_close(losses["alignment"], torch.zeros(2))
    torch.testing.assert_close(losses["entropy"], torch.tensor(4.0).log().expand(2))
    assert "alignment" not in routing_losses(even, torch.full((4,), 0.25), None, tau=0.1)
    concentrated = routing_losses(torch.eye(4)[:1], torch.tensor([0.97, 0.01, 0.01, 0.01]), torch.zeros(1, 4), tau=0.1)
    assert concentrated["load_balance"] > 3.5 and concentrated["alignment"].isfinite()
