"""The router: from an utterance's embedding to gates, and from gates to weights over experts."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .configuration_moe_whisper import MoeWhisperConfig


class UtteranceRouter(nn.Module):
    """Scores experts for one utterance from its pooled encoder state: two linear layers with a GELU between them.

    The embedding is standardised by statistics of the router's training data: a few dimensions of Whisper's residual
    stream are a hundred times larger than the others and would hide them.
    """

    WEIGHTS, CONFIG = "router.safetensors", "router.json"

    def __init__(self, d_model: int, hidden_size: int, num_experts: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("std", torch.ones(d_model))
        self.hidden = nn.Linear(d_model, hidden_size)
        self.output = nn.Linear(hidden_size, num_experts)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """`(batch, d_model)` to logits `(batch, num_experts)` in float32."""
        standardised = (embedding.float() - self.mean.float()) / self.std.float()
        # The statistics keep the model's type where the layers are quantised.
        return self.output(nn.functional.gelu(self.hidden(standardised.to(self.mean.dtype)))).float()

    def fit_statistics(self, embeddings: torch.Tensor) -> None:
        """Take mean and standard deviation from training embeddings `(utterances, d_model)`."""
        self.mean.copy_(embeddings.mean(0))
        self.std.copy_(embeddings.std(0, correction=0).clamp(min=1e-6))

    def save(self, folder: str | Path, *, router_layer: int) -> None:
        """Write weights and sizes, and the encoder layer that the router reads, 1 to the number of layers."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / self.WEIGHTS)
        sizes = {
            "d_model": self.hidden.in_features,
            "router_hidden_size": self.hidden.out_features,
            "num_experts": self.output.out_features,
            "router_layer": router_layer,
        }
        (folder / self.CONFIG).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> tuple["UtteranceRouter", int]:
        """The router saved in `folder` and the encoder layer that it reads.

        Raises:
            FileNotFoundError: the folder holds no router.
        """
        folder = Path(folder)
        sizes = json.loads((folder / cls.CONFIG).read_text(encoding="utf-8"))
        router = cls(sizes["d_model"], sizes["router_hidden_size"], sizes["num_experts"])
        router.load_state_dict(load_file(folder / cls.WEIGHTS))
        return router, sizes["router_layer"]


def gates_of(router_logits: torch.Tensor, config: MoeWhisperConfig, training: bool = False) -> torch.Tensor:
    """Softmax at the configured temperature; in training with noise, and with the usage floor under soft routing.

    The floor f makes `(1 - E f) g + f` of a gate g of E experts.

    Args:
        router_logits: `(batch, experts)`.
    Returns:
        `(batch, experts)`, each row adds up to 1.
    """
    if training and config.router_noise_std > 0:
        router_logits = router_logits + config.router_noise_std * torch.randn_like(router_logits)
    gates = (router_logits / config.router_temperature).softmax(-1)
    if training and config.routing == "soft" and config.min_expert_usage_fraction > 0:
        floor = config.min_expert_usage_fraction
        gates = (1 - config.num_experts * floor) * gates + floor
    return gates


def select_experts(gates: torch.Tensor, config: MoeWhisperConfig, training: bool = False) -> torch.Tensor:
    """Weights over experts by the configured routing, mixture and beta.

    Args:
        gates: `(batch, experts)`.
    Returns:
        `(batch, experts)`.
    """
    plain = gates.new_tensor(config.plain_weights).expand(gates.shape)
    if config.mixture in ("merge", "choose"):
        return plain
    weights = _route(gates, config, training)
    if config.mixture == "logits" or config.beta == 1:
        return weights
    return config.beta * weights + (1 - config.beta) * plain


def _route(gates: torch.Tensor, config: MoeWhisperConfig, training: bool) -> torch.Tensor:
    if config.routing == "soft":
        return gates
    if config.routing == "top_k":
        best = gates.topk(config.experts_per_utterance, dim=-1)
        kept = torch.zeros_like(gates).scatter(-1, best.indices, best.values)
        return kept / kept.sum(-1, keepdim=True)
    chosen = nn.functional.one_hot(gates.argmax(-1), config.num_experts).to(gates.dtype)
    # Straight-through: the value is one-hot, the gradient is that of the gates, so the router stays in the graph.
    return chosen + (gates - gates.detach()) if training else chosen


def active_experts(
    weights: torch.Tensor, config: MoeWhisperConfig, all_experts: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k experts that each decode an utterance under `mixture="logits"`.

    Under top-k routing these are the best `experts_per_utterance`, best first; otherwise all, by number.

    Args:
        weights: `(batch, experts)`.
        all_experts: take all of them, whatever the routing is.
    Returns:
        their weights `(batch, k)`, and one-hot rows `(batch, k, experts)`.
    """
    every = torch.eye(config.num_experts, dtype=weights.dtype, device=weights.device)
    if all_experts or config.routing == "soft":
        return weights, every.expand(weights.shape[0], -1, -1)
    active = weights.topk(config.experts_per_utterance, dim=-1)
    return active.values, every[active.indices]


def check_expert_weights(expert_weights: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """The given weights in the gates' shape; a single row is used for the whole batch.

    Args:
        expert_weights: `(batch, experts)` or `(1, experts)`.
        gates: `(batch, experts)`.
    Returns:
        `(batch, experts)` in float32.
    Raises:
        ValueError: the weights have another shape, are negative or are not finite.
    """
    if expert_weights.shape not in (gates.shape, (1, gates.shape[1])):
        raise ValueError(
            f"`expert_weights` must have shape (batch, experts) = {tuple(gates.shape)}, "
            f"got {tuple(expert_weights.shape)}."
        )
    valid = (expert_weights >= 0).all() & expert_weights.isfinite().all()
    if not torch.compiler.is_compiling() and not bool(valid):  # a compiled graph cannot look at values
        raise ValueError("`expert_weights` must be finite and not negative.")
    return expert_weights.to(torch.float32).expand(gates.shape)
