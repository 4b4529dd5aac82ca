"""Linear layers with LoRA experts, chosen per row of the batch, and the router that chooses."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

# With fewer positions, as in a decoder's cached steps, copying weights for each row costs more than products with all
# of them.
GATHER_FROM = 16


class RoutingState:
    """Expert weights of the forward pass under way, shared by the routed layers of one encoder or decoder.

    Set once per forward and left in place, because non-reentrant gradient checkpointing reads it again in backward.

    Args:
        shared_expert: the last slot is an expert that every row carries with weight 1.
    """

    def __init__(self, shared_expert: bool):
        self.shared_expert = shared_expert
        self.expert_weights: torch.Tensor | None = None  # (rows, slots)
        self.mixed = 1  # consecutive rows that are one utterance under its several experts
        self._given = self._active = None
        self.stacked: dict[RoutedLinear, tuple[torch.Tensor, ...]] = {}

    def set(self, expert_weights: torch.Tensor, *, continues: bool = False) -> None:
        """Route by `expert_weights (rows, experts)`, or one-hot `(batch, k, experts)` of rows batch * k.

        Args:
            continues: this forward continues the cached decoding that the same weights began; what layers have stacked
                for it stays, as the cache does.
        """
        if continues and expert_weights is self._given:
            return
        self._given = expert_weights
        self._active = None
        self.stacked = {}
        weights = expert_weights.flatten(0, -2)
        self.mixed = len(weights) // len(expert_weights)
        self.expert_weights = (
            torch.cat([weights, torch.ones_like(weights[:, :1])], dim=1) if self.shared_expert else weights
        )

    def active(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row's experts: their weights and slots, `(rows, k)`, k the most that any row has."""
        if self._active is None:
            k = int((self.expert_weights > 0).sum(-1).max())
            self._active = tuple(self.expert_weights.topk(max(k, 1), dim=-1))
        return self._active

    def __deepcopy__(self, memo):
        return RoutingState(self.shared_expert)  # weights belong to one graph


class RoutedLinear(nn.Linear):
    """A linear layer whose rows each carry their own mixture of LoRA experts.

    `y = W x + s * ((x A^T) * weights) B^T` (Hu et al. 2021, arXiv 2106.09685, with s = alpha / rank). A one-hot row
    picks an expert, a soft row merges them.

    Args:
        linear: the layer to take the place of; its weight and bias keep their names in the state dict.
        num_experts: experts, the shared one included.
        rank, scaling, dropout: of each expert's LoRA.
        state: where the weights `(rows, num_experts)` of the current forward are found; without them the layer is
            the plain linear one.

    `shared_is_frozen` cuts the shared expert, the last, out of the graph. It is a part of the same parameters as the
    others; cut here, and not by a hook on their gradients, it stays whatever a launcher puts in the parameters' place.
    """

    shared_is_frozen = False

    def __init__(
        self, linear: nn.Linear, num_experts: int, rank: int, scaling: float, dropout: float, state: RoutingState
    ):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.rank = rank
        self.scaling = scaling
        self.state = state
        self.lora_a = nn.Parameter(torch.empty(num_experts, rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(num_experts, linear.out_features, rank))
        self.lora_dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(rows, time, in_features)` to `(rows, time, out_features)`.

        One row per utterance will do where its experts all hear the same.
        """
        output = super().forward(hidden_states)
        weights = self.state.expert_weights
        mixed = self.state.mixed
        if weights is None:
            return output
        if hidden_states.shape[0] * mixed == weights.shape[0] and mixed > 1:
            output = output.repeat_interleave(mixed, dim=0)
            hidden_states = hidden_states.repeat_interleave(mixed, dim=0)
        if weights.shape[0] != hidden_states.shape[0]:
            raise RuntimeError(
                f"{weights.shape[0]} rows of expert weights for {hidden_states.shape[0]} rows of input; "
                "torch.nn.DataParallel is not supported, use `accelerate launch`"
            )
        hidden_states = self.lora_dropout(hidden_states)
        # An expert without weight adds nothing, but the gradient of its weight needs it.
        if weights.requires_grad or hidden_states.shape[1] < GATHER_FROM:
            return self._add_stacked(output, hidden_states)
        return self._add_gathered(output, hidden_states)

    def _add_stacked(self, output: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Two flat products over the experts of the whole batch."""
        a, b, weights = self._stacked()
        down = nn.functional.linear(hidden_states, a)  # (rows, time, experts * rank)
        down = (down * weights.to(down.dtype)).flatten(0, 1)
        return torch.addmm(output.flatten(0, 1), down, b, alpha=self.scaling).view_as(output)

    def _stacked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A and B^T one below the other, `(experts * rank, in_features or out_features)`, and the weights of their
        rows.

        Of all experts with gradients; without, of those in use, and kept for the steps of a decoder.
        """
        if not torch.is_grad_enabled() and self in self.state.stacked:
            return self.state.stacked[self]
        (lora_a, lora_b) = self._experts()
        weights = self.state.expert_weights
        if not torch.is_grad_enabled():
            used = weights.any(0).nonzero().flatten()
            lora_a = lora_a[used]
            lora_b = lora_b[used]
            weights = weights[:, used]
        stacked = (
            lora_a.flatten(0, 1),
            lora_b.transpose(1, 2).flatten(0, 1),
            weights.repeat_interleave(self.rank, dim=1)[:, None],
        )
        if not torch.is_grad_enabled():
            self.state.stacked[self] = stacked
        return stacked

    def _experts(self) -> tuple[torch.Tensor, torch.Tensor]:
        if not (self.shared_is_frozen and torch.is_grad_enabled()):
            return self.lora_a, self.lora_b
        return tuple(torch.cat([lora[:-1], lora[-1:].detach()]) for lora in (self.lora_a, self.lora_b))

    def _add_gathered(self, output: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Two batched products over the experts of each row."""
        weights, slots = self.state.active()
        lora_a, lora_b = self._experts()
        a = lora_a[slots].flatten(1, 2)  # (rows, k * rank, in_features)
        b = lora_b[slots].transpose(2, 3).flatten(1, 2)  # (rows, k * rank, out_features)
        down = torch.bmm(hidden_states, a.transpose(1, 2))
        down = down * weights.to(down.dtype).repeat_interleave(self.rank, dim=1)[:, None]
        return torch.baddbmm(output, down, b, alpha=self.scaling)

    def delta(self, experts: list[int]) -> torch.Tensor:
        """What these experts add to the weight, `(out_features, in_features)`."""
        return self.scaling * sum(self.lora_b[i] @ self.lora_a[i] for i in experts)


class UtteranceRouter(nn.Module):
    """Scores experts for one utterance from its pooled encoder state.

    The embedding is standardised by statistics of the data the router was trained on: a few dimensions of Whisper's
    residual stream are a hundred times larger than the rest and would drown them.
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
        return self.output(nn.functional.gelu(self.hidden(standardised.to(self.hidden.weight.dtype)))).float()

    def fit_statistics(self, embeddings: torch.Tensor) -> None:
        """Take mean and standard deviation from training embeddings `(utterances, d_model)`."""
        self.mean.copy_(embeddings.mean(0))
        self.std.copy_(embeddings.std(0, correction=0).clamp(min=1e-6))

    def save(self, folder: str | Path, *, router_layer: int) -> None:
        """Write weights and sizes, and the encoder layer that the router reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / self.WEIGHTS)
        sizes = {
            "d_model": self.hidden.in_features,
            "router_hidden_size": self.hidden.out_features,
            "num_experts": self.output.out_features,
            "router_layer": router_layer,
        }
        (folder / self.CONFIG).write_text(json.dumps(sizes, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> tuple["UtteranceRouter", int]:
        """The router saved in `folder` and the encoder layer that it reads.

        Raises:
            FileNotFoundError: the folder holds no router.
        """
        folder = Path(folder)
        sizes = json.loads((folder / cls.CONFIG).read_text())
        router = cls(sizes["d_model"], sizes["router_hidden_size"], sizes["num_experts"])
        router.load_state_dict(load_file(folder / cls.WEIGHTS))
        return router, sizes["router_layer"]
