"""The routing curriculum of joint training (soft, then top-k, then hard) and the losses that keep experts alive."""

from dataclasses import dataclass

import torch

from hf_components.runtime import flag


@dataclass
class RoutingArguments:
    """How routing changes over joint training, and what keeps it from collapsing onto one expert."""

    soft_routing_epochs: float = flag("Epochs in which every expert takes part.", default=2.0, min=0)
    topk_routing_epochs: float = flag(
        "Epochs after those in which the best experts_per_utterance take part; the rest of training is hard.",
        default=2.0,
        min=0,
    )
    routing_temperature_start: float = flag("Router temperature at the start.", default=2.0, above=0)
    routing_temperature_end: float = flag("Router temperature at the end.", default=1.0, above=0)
    routing_temperature_min: float = flag("Floor of the router temperature.", default=0.5, above=0)
    router_noise_std: float = flag(
        "Gaussian noise on the router's logits in training, fading to 0 at the end.", default=0.1, min=0
    )
    min_expert_usage_fraction: float = flag(
        "Floor of every gate under soft routing, below 1 / num_experts.", default=0.02, min=0, below=1
    )
    load_balance_coef: float = flag("Weight of the load-balance loss.", default=0.01, min=0)
    routing_alignment_coef: float = flag(
        "Weight of KL(target || gate) under soft routing; the target prefers the expert with the smaller loss.",
        default=0.1,
        min=0,
    )
    routing_alignment_tau: float = flag(
        "Temperature of that target, in nats of token loss: smaller is sharper.", default=0.1, above=0
    )
    routing_entropy_coef: float = flag(
        "Weight of the gates' entropy as a bonus, fading to 0 at the end.", default=0.01, min=0
    )
    usage_momentum: float = flag("Of the running mean of expert usage, per step.", default=0.9, min=0, below=1)

    def routing(self, epoch: float) -> str:
        """The routing at a point of training, `epoch` counted from 0 and fractional."""
        if epoch < self.soft_routing_epochs:
            return "soft"
        return "top_k" if epoch < self.soft_routing_epochs + self.topk_routing_epochs else "hard"

    def temperature(self, progress: float) -> float:
        """Geometric from start to end over training (`progress` from 0 to 1), never below the floor."""
        ratio = self.routing_temperature_end / self.routing_temperature_start
        return max(self.routing_temperature_start * ratio**progress, self.routing_temperature_min)


def routing_losses(
    gates: torch.Tensor, usage: torch.Tensor, expert_losses: torch.Tensor | None, tau: float
) -> dict[str, torch.Tensor]:
    """What is added to the recognition loss, one value per utterance, so that any split into micro-batches adds up.

    Args:
        gates: `(batch, experts)` softmax of the router.
        usage: `(experts,)` running mean of the gates over optimizer steps, no gradient. The load-balance loss of the
            Switch Transformer (Fedus et al. 2021, arXiv 2101.03961, eq. 4) takes this fraction from the batch at hand;
            a running mean makes it linear in the gates, hence equal for 8 x 1 and 2 x 4 accumulated utterances.
        expert_losses: `(batch, experts)` mean token loss of every expert, no gradient; None skips alignment.
        tau: temperature of the alignment target.
    Returns:
        `load_balance` (1 when balanced), `entropy` (nats) and, with expert losses, `alignment` (KL), each `(batch,)`.
    """
    log_gates = gates.clamp(min=1e-9).log()
    losses = {"load_balance": gates.shape[-1] * (gates * usage).sum(-1), "entropy": -(gates * log_gates).sum(-1)}
    if expert_losses is not None:
        target = (-expert_losses.detach() / tau).softmax(-1)
        losses["alignment"] = (target * (target.clamp(min=1e-9).log() - log_gates)).sum(-1)
    return losses
