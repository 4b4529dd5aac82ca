"""Linear layers with LoRA experts, chosen per row of the batch, and the router that chooses."""

import threading
from collections.abc import Sequence

import torch
from torch import nn

# With fewer positions, as in a decoder's cached steps, copying weights per row takes longer than products with all.
GATHER_FROM = 16

MERGE_RULE = (
    "experts are merged into plain linear layers, not into quantised ones; load the model without quantisation"
)


class Routing:
    """Expert weights of one forward pass, and what the routed layers make of them.

    Args:
        given: weights `(rows, experts)`, or one-hot `(batch, k, experts)` of rows batch * k.
        shared_expert: the last slot is an expert that every row carries with weight 1.
        folded: weight of each slot that the plain weights already contain; what is left to add may be negative.
    """

    def __init__(self, given: torch.Tensor, shared_expert: bool, folded: Sequence[float] | None = None):
        weights = given.flatten(0, -2)
        self.given = given
        self.mixed = len(weights) // len(given)  # consecutive rows that are one utterance under its several experts
        if shared_expert:
            weights = torch.cat([weights, torch.ones_like(weights[:, :1])], dim=1)
        self.expert_weights = weights if folded is None else weights - weights.new_tensor(folded)
        self.stacked: dict[RoutedLinear, tuple[torch.Tensor, ...]] = {}
        self._active = None

    def active(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and slots of each row's experts, `(rows, k)`; k is the greatest number of any row."""
        if self._active is None:
            k = int((self.expert_weights != 0).sum(-1).max())
            slots = self.expert_weights.abs().topk(max(k, 1), dim=-1).indices
            self._active = (self.expert_weights.gather(-1, slots), slots)
        return self._active


class RoutingState:
    """The routing of the forward pass under way, for the routed layers of one encoder or decoder.

    Each thread has its own, so that several can use one model at once. It stays after the forward pass, because
    non-reentrant gradient checkpointing reads it again in backward. Backward may run in a thread of autograd, which
    finds the last routing that was set with gradients.

    With `by_row` an utterance is computed by products of its own, also in the steps of a decoder. Its result then has
    the same bits, whichever experts the other rows of the batch use.
    """

    def __init__(self, shared_expert: bool, folded: Sequence[float] | None = None, by_row: bool = False):
        self.shared_expert = shared_expert
        self.folded = folded
        self.by_row = by_row
        self._of_thread = threading.local()
        self._of_graph: Routing | None = None

    @property
    def current(self) -> Routing | None:
        """The routing of this thread, else the last one that was set with gradients."""
        return getattr(self._of_thread, "routing", self._of_graph)

    def set(self, expert_weights: torch.Tensor, *, continues: bool = False) -> None:
        """Route by `expert_weights`, see `Routing`.

        Args:
            expert_weights: `(rows, experts)`, or one-hot `(batch, k, experts)`.
            continues: this forward pass continues the cached decoding that the same weights started; what layers have
                stacked for it stays, as the cache does.
        """
        routing = getattr(self._of_thread, "routing", None)
        if continues and routing is not None and routing.given is expert_weights:
            return
        self._of_thread.routing = Routing(expert_weights, self.shared_expert, self.folded)
        if torch.is_grad_enabled():
            self._of_graph = self._of_thread.routing

    def __reduce__(self):  # for copies and pickles: weights belong to one graph
        return RoutingState, (self.shared_expert, self.folded, self.by_row)


class RoutedLinear(nn.Linear):
    """A linear layer with an own mixture of LoRA experts for each row.

    `y = W x + s * ((x A^T) * weights) B^T` (Hu et al. 2021, arXiv 2106.09685, with s = alpha / rank). A one-hot row
    uses one expert, a soft row merges them.

    The layer itself is a module inside, so that quantisation replaces it and leaves the experts. Checkpoints name its
    weight and bias as stock Whisper does, without `linear.`. This class is an `nn.Linear` without an own weight, so
    that PEFT puts another LoRA on it.

    `shared_is_frozen` detaches the shared expert, the last one, from the graph. It is a slice of the same parameters
    as the others. A hook on the gradients would be lost when a launcher replaces the parameters; this is not.

    Args:
        linear: the layer that gets experts.
        num_experts: number of experts, with the shared one; 0 in layers that have none, which only share the names.
        rank, scaling, dropout: size, scale and dropout of each expert's LoRA.
        state: holder of the weights `(rows, num_experts)` of the current forward pass; without weights the layer is a
            plain linear one.
    """

    shared_is_frozen = False

    def __init__(
        self, linear: nn.Linear, num_experts: int, rank: int, scaling: float, dropout: float, state: RoutingState
    ):
        nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.linear = linear
        self.num_experts = num_experts
        if not num_experts:
            return
        self.rank = rank
        self.scaling = scaling
        self.state = state
        self.lora_a = nn.Parameter(torch.empty(num_experts, rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(num_experts, linear.out_features, rank))
        self.lora_dropout = nn.Dropout(dropout)

    @property
    def weight(self) -> torch.Tensor:
        """The weight `(out_features, in_features)` of the layer without experts, which may be quantised."""
        return self.linear.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias `(out_features,)` of the layer."""
        return self.linear.bias

    def extra_repr(self) -> str:
        """What is printed of the layer."""
        return f"num_experts={self.num_experts}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # `load_state_dict` also takes a checkpoint's names.
        for name in ("weight", "bias"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}linear.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(rows, time, in_features)` to `(rows, time, out_features)`.

        If all experts of an utterance have the same input, one row per utterance is enough.

        Raises:
            ValueError: there is not a row of weights for each row of the input.
        """
        output = self.linear(hidden_states)
        routing = self.state.current if self.num_experts else None
        if routing is None:
            return output
        weights = routing.expert_weights
        mixed = routing.mixed
        if hidden_states.shape[0] * mixed == weights.shape[0] and mixed > 1:
            output = output.repeat_interleave(mixed, dim=0)
            hidden_states = hidden_states.repeat_interleave(mixed, dim=0)
        if weights.shape[0] != hidden_states.shape[0]:
            raise ValueError(
                "each row of the input needs a row of expert weights: "
                f"got {weights.shape[0]} rows of weights for {hidden_states.shape[0]} rows of input."
            )
        hidden_states = self.lora_dropout(hidden_states)
        # An expert without weight adds nothing, but the gradient of its weight needs it. A graph that is compiled for
        # every routing cannot depend on which experts one batch uses.
        is_short = hidden_states.shape[1] < GATHER_FROM and not self.state.by_row
        if weights.requires_grad or is_short or torch.compiler.is_compiling():
            return self._add_stacked(output, hidden_states, routing)
        return self._add_gathered(output, hidden_states, routing)

    def _add_stacked(self, output: torch.Tensor, hidden_states: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Add the experts by two flat products over the experts of the whole batch."""
        a, b, weights = self._stacked(routing)
        down = nn.functional.linear(hidden_states, a)  # (rows, time, experts * rank)
        down = (down * weights.to(down.dtype)).flatten(0, 1)
        return torch.addmm(output.flatten(0, 1), down, b, alpha=self.scaling).view_as(output)

    def _stacked(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A and B^T, stacked to `(experts * rank, in_features or out_features)`, and the weights of their rows.

        With gradients, or compiled, these are all experts; else only those in use, kept for the next steps of a
        decoder.
        """
        only_used = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if only_used and self in routing.stacked:
            return routing.stacked[self]
        (lora_a, lora_b) = self._experts()
        weights = routing.expert_weights
        if only_used:
            used = weights.any(0).nonzero().flatten()
            lora_a = lora_a[used]
            lora_b = lora_b[used]
            weights = weights[:, used]
        stacked = (
            lora_a.flatten(0, 1),
            lora_b.transpose(1, 2).flatten(0, 1),
            weights.repeat_interleave(self.rank, dim=1)[:, None],
        )
        if only_used:
            routing.stacked[self] = stacked
        return stacked

    def _experts(self) -> tuple[torch.Tensor, torch.Tensor]:
        if not (self.shared_is_frozen and torch.is_grad_enabled()):
            return self.lora_a, self.lora_b
        return tuple(torch.cat([lora[:-1], lora[-1:].detach()]) for lora in (self.lora_a, self.lora_b))

    def _add_gathered(self, output: torch.Tensor, hidden_states: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Add the experts by two batched products over the experts of each row."""
        a, b, weights = self._gathered(routing)
        down = torch.bmm(hidden_states, a.transpose(1, 2))
        down = down * weights.to(down.dtype)
        return torch.baddbmm(output, down, b, alpha=self.scaling)

    def _gathered(self, routing: Routing) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A and B^T of each row's experts, `(rows, k * rank, in_features or out_features)`, and the rank's weights.

        By row they are kept for the next steps of a decoder, without gradients.
        """
        keeps = self.state.by_row and not torch.is_grad_enabled()
        if keeps and self in routing.stacked:
            return routing.stacked[self]
        weights, slots = routing.active()
        lora_a, lora_b = self._experts()
        gathered = (
            lora_a[slots].flatten(1, 2),
            lora_b[slots].transpose(2, 3).flatten(1, 2),
            weights.repeat_interleave(self.rank, dim=1)[:, None],
        )
        if keeps:
            routing.stacked[self] = gathered
        return gathered

    def delta(self, weights: Sequence[float]) -> torch.Tensor:
        """What the experts add to the weight, with a weight for each slot, `(out_features, in_features)`."""
        return weighted_delta(self.lora_a, self.lora_b, weights, self.scaling)

    @property
    def plain_weight(self) -> torch.Tensor:
        """The linear layer's weight, `(out_features, in_features)`, to merge experts into.

        Raises:
            ValueError: the layer is quantised, or wrapped by another library.
        """
        if type(self.linear) is not nn.Linear:
            raise ValueError(f"{MERGE_RULE}, got {type(self.linear).__name__}.")
        return self.linear.weight


def weighted_delta(
    lora_a: torch.Tensor, lora_b: torch.Tensor, weights: Sequence[float], scaling: float
) -> torch.Tensor:
    """`s sum_i w_i B_i A_i`: products add up, not A or B.

    Args:
        lora_a, lora_b: `(experts, rank, in)` and `(experts, out, rank)`.
        weights: w, one per expert.
        scaling: s.
    Returns:
        `(out, in)`.
    """
    return scaling * torch.einsum("e,eor,eri->oi", lora_a.new_tensor(weights), lora_b, lora_a)


def stock_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a Whisper without its experts and router, by their names in a checkpoint of stock Whisper.

    Returns:
        tensors in the shapes that stock Whisper has, such as `(out, in)`.
    """
    return {
        name.replace(".linear.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name and ".router." not in name
    }
