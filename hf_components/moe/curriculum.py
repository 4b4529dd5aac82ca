"""The routing curriculum of joint training (soft, then top-k, then hard) and the losses that keep experts alive."""

from dataclasses import dataclass, field

import torch

from hf_components.runtime import UserError


@dataclass
class RoutingArguments:
    """How routing changes over joint training, and what keeps it from collapsing onto one expert."""

    soft_routing_epochs: float = field(default=2.0, metadata={"help": "Epochs in which every expert takes part."})
    topk_routing_epochs: float = field(
        default=2.0,
        metadata={
            "help": "Epochs after those in which the best experts_per_utterance take part; the rest of "
            "training is hard."
        },
    )
    routing_temperature_start: float = field(default=2.0, metadata={"help": "Router temperature at the start."})
    routing_temperature_end: float = field(default=1.0, metadata={"help": "Router temperature at the end."})
    routing_temperature_min: float = field(default=0.5, metadata={"help": "Floor of the router temperature."})
    router_noise_std: float = field(
        default=0.1, metadata={"help": "Gaussian noise on the router's logits in training, fading to 0 at the end."}
    )
    min_expert_usage_fraction: float = field(
        default=0.02, metadata={"help": "Floor of every gate under soft routing, below 1 / num_experts."}
    )
    load_balance_coef: float = field(default=0.01, metadata={"help": "Weight of the load-balance loss."})
    routing_alignment_coef: float = field(
        default=0.1,
        metadata={
            "help": "Weight of KL(target || gate) under soft routing; the target prefers the expert with "
            "the smaller loss."
        },
    )
    routing_alignment_tau: float = field(
        default=0.1, metadata={"help": "Temperature of that target, in nats of token loss: smaller is sharper."}
    )
    routing_entropy_coef: float = field(
        default=0.01, metadata={"help": "Weight of the gates' entropy as a bonus, fading to 0 at the end."}
    )
    usage_momentum: float = field(default=0.9, metadata={"help": "Of the running mean of expert usage, per step."})

    def __post_init__(self):
        for name in (
            "routing_temperature_start",
            "routing_temperature_end",
            "routing_temperature_min",
            "routing_alignment_tau",
        ):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("router_noise_std", "min_expert_usage_fraction"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.usage_momentum < 1:
            raise UserError(f"usage_momentum must lie in [0, 1), got {self.usage_momentum}")

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
