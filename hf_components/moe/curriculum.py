"""The routing curriculum of joint training (soft, then top-k, then hard) and the losses that keep experts alive."""

from dataclasses import dataclass

import torch

from hf_components.runtime import flag


@dataclass
class RoutingArguments:
    """How routing changes over joint training, and what keeps it from collapsing onto one expert.

    The alignment loss is KL(target || gate); its target prefers the expert with the smaller token loss, and a lower
    temperature makes it sharper. Noise and entropy bonus fall to 0 at the end of training. The usage floor must be
    below 1 / num_experts.
    """

    soft_routing_epochs: float = flag("epochs in which every expert takes part", default=2.0, min=0)
    topk_routing_epochs: float = flag("epochs of top-k routing after that; the rest is hard", default=2.0, min=0)
    routing_temperature_start: float = flag("router temperature at the start", default=2.0, above=0)
    routing_temperature_end: float = flag("router temperature at the end", default=1.0, above=0)
    routing_temperature_min: float = flag("floor of the router temperature", default=0.5, above=0)
    router_noise_std: float = flag("Gaussian noise on the router's logits, falls to 0", default=0.1, min=0)
    min_expert_usage_fraction: float = flag("floor of every gate under soft routing", default=0.02, min=0, below=1)
    load_balance_coef: float = flag("weight of the load-balance loss", default=0.01, min=0)
    routing_alignment_coef: float = flag("weight of the alignment loss under soft routing", default=0.1, min=0)
    routing_alignment_tau: float = flag(
        "temperature of the alignment target, in nats", default=0.1, above=0, needs="routing_alignment_coef"
    )
    routing_entropy_coef: float = flag("weight of the gates' entropy as a bonus, falls to 0", default=0.01, min=0)
    usage_momentum: float = flag("momentum of the running mean of expert usage", default=0.9, min=0, below=1)

    def routing(self, epoch: float) -> str:
        """The routing at a point of training; `epoch` is fractional and starts at 0."""
        if epoch < self.soft_routing_epochs:
            return "soft"
        return "top_k" if epoch < self.soft_routing_epochs + self.topk_routing_epochs else "hard"

    def temperature(self, progress: float) -> float:
        """The router temperature: geometric from start to end (`progress` from 0 to 1), never below the floor."""
        ratio = self.routing_temperature_end / self.routing_temperature_start
        return max(self.routing_temperature_start * ratio**progress, self.routing_temperature_min)


def routing_losses(
    gates: torch.Tensor, usage: torch.Tensor, expert_losses: torch.Tensor | None, tau: float
) -> dict[str, torch.Tensor]:
    """The losses that are added to the recognition loss, one value per utterance.

    The load-balance loss is that of the Switch Transformer (Fedus et al. 2021, arXiv 2101.03961, eq. 4), which takes
    the usage from the current batch. Here it is a running mean: the loss is then linear in the gates, and equal for
    8 x 1 and 2 x 4 accumulated utterances.

    Args:
        gates: `(batch, experts)` softmax of the router.
        usage: `(experts,)` running mean of the gates over optimizer steps, no gradient.
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
