"""Linear layers with LoRA experts, chosen per row of the batch, and the router that chooses."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class RoutingState:
    """Expert weights of the forward pass under way, shared by the routed layers of one encoder or decoder.

    Set once per forward and left in place, because non-reentrant gradient checkpointing reads it again in backward.
    """

    def __init__(self):
        self.expert_weights: torch.Tensor | None = None  # (rows, experts)

    def __deepcopy__(self, memo):
        return RoutingState()  # weights belong to one graph


class RoutedLinear(nn.Linear):
    """A linear layer whose rows each carry their own mixture of LoRA experts.

    `y = W x + s * ((x A^T) * weights) B^T` as two flat matrix products over all experts (Hu et al. 2021,
    arXiv 2106.09685, with s = alpha / rank). A one-hot row picks an expert, a soft row merges them.

    Args:
        linear: the layer to take the place of; its weight and bias keep their names in the state dict.
        num_experts: experts, the shared one included.
        rank, scaling, dropout: of each expert's LoRA.
        state: where the weights `(rows, num_experts)` of the current forward are found; without them the layer is
            the plain linear one.
    """

    def __init__(self, linear: nn.Linear, num_experts: int, rank: int, scaling: float, dropout: float, state: RoutingState):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        self.rank, self.scaling, self.state = rank, scaling, state
        self.lora_a = nn.Parameter(torch.empty(num_experts, rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(num_experts, linear.out_features, rank))
        self.lora_dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(rows, time, in_features)` to `(rows, time, out_features)`."""
        output = super().forward(hidden_states)
        weights = self.state.expert_weights
        if weights is None:
            return output
        if weights.shape[0] != hidden_states.shape[0]:
            raise RuntimeError(f"{weights.shape[0]} rows of expert weights for {hidden_states.shape[0]} rows of input; "
                               "torch.nn.DataParallel is not supported, use `accelerate launch`")
        down = nn.functional.linear(self.lora_dropout(hidden_states), self.lora_a.flatten(0, 1))  # (rows, time, all ranks)
        down = down * weights.to(down.dtype).repeat_interleave(self.rank, dim=1)[:, None]
        up = self.lora_b.transpose(0, 1).flatten(1)  # (out_features, experts * rank)
        return output + self.scaling * nn.functional.linear(down, up)

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
        sizes = {"d_model": self.hidden.in_features, "router_hidden_size": self.hidden.out_features,
                 "num_experts": self.output.out_features, "router_layer": router_layer}
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
