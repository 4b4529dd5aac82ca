"""Experts inside the plain weights of a saved mixture: stock Whisper reads an adapted model, and not the base."""

from collections.abc import Sequence

import torch
from torch import nn

from .routed_lora import RoutedLinear, RoutingState, weighted_delta


class FoldingMixin:
    """`save_pretrained` of a mixture, and the way back to the base's weights.

    `folded_weights` of the configuration says how much of each expert the plain weights contain. The routed layers add
    only what is left, see `Routing`.
    """

    def save_pretrained(self, save_directory, *, state_dict=None, **kwargs):
        """The same as in transformers, with experts folded into the plain weights.

        Stock Whisper, and converters that read it, then find the adapted model and not the bare base: with the shared
        expert, or without one with the mean of all experts. The model in memory stays as it is. A quantised model is
        saved as it is too.
        """
        before = self.config.folded_weights
        if before is None and self._is_plain():
            state_dict = dict(self.state_dict() if state_dict is None else state_dict)
            self.config.folded_weights = self._fold(state_dict)
        try:
            super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        finally:
            self.config.folded_weights = before

    def _is_plain(self) -> bool:
        return all(type(layer.linear) is nn.Linear for layer in self.routed_layers().values())

    def _fold(self, state_dict: dict[str, torch.Tensor]) -> list[float]:
        """Add experts to the plain weights in `state_dict`; returns the weight of each that is in them."""
        folded = [*self.config.plain_weights, *([1.0] if self.config.shared_expert else [])]
        for name, layer in self.routed_layers().items():
            lora = [state_dict[f"{name}.{part}"] for part in ("lora_a", "lora_b")]
            plain = state_dict[f"{name}.linear.weight"]
            state_dict[f"{name}.linear.weight"] = plain + weighted_delta(*lora, folded, layer.scaling).to(plain)
        return folded

    @torch.no_grad()
    def unfold(self) -> None:
        """Make the plain weights those of the base model again, before experts are trained further.

        Quantised ones stay as they are, and the experts are trained on what is folded into them.
        """
        folded = self.config.folded_weights
        if folded is None or not self._is_plain():
            return
        for layer in self.routed_layers().values():
            layer.plain_weight.sub_(layer.delta(folded))
        self.config.folded_weights = None
        for module in self.modules():
            if isinstance(getattr(module, "state", None), RoutingState):
                module.state.folded = None

    def routed_layers(self) -> dict[str, RoutedLinear]:
        """The layers that have experts, by module name."""
        modules = self.named_modules()
        return {name: module for name, module in modules if isinstance(module, RoutedLinear) and module.num_experts}

    def left_to_add(self, weights: Sequence[float], shared: float = 1.0) -> list[float]:
        """Weights of all slots that are missing in the plain weights, for these of the experts and the shared one."""
        slots = [*weights, shared] if self.config.shared_expert else list(weights)
        folded = self.config.folded_weights or [0.0] * len(slots)
        return [weight - already for weight, already in zip(slots, folded, strict=True)]
