"""The encoder of MoE-Whisper: it routes in the middle, and returns the routing with its states."""

import torch
from transformers.utils import logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_moe_whisper import MoeWhisperConfig
from .dynamic_encoder import DynamicContextEncoder
from .mel_frames import count_real_frames, pool_real_frames
from .mixing import mean_of_experts
from .moe_outputs import MoeEncoderOutput
from .moe_pretrained import MoeWhisperPreTrainedModel, add_routed_lora
from .routed_lora import RoutingState
from .router import UtteranceRouter, active_experts, check_expert_weights, gates_of, select_experts
from .silence import divide_context

logger = logging.get_logger(__name__)


class MoeWhisperEncoder(MoeWhisperPreTrainedModel, DynamicContextEncoder):
    """Encoder that routes after `router_layer` layers."""

    def __init__(self, config: MoeWhisperConfig):
        super().__init__(config)
        self.router = UtteranceRouter(config.d_model, config.router_hidden_size, config.num_experts)
        self.state = RoutingState(config.shared_expert, config.folded_weights)
        add_routed_lora(self.layers, config, self.state, first=config.router_layer)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        expert_weights: torch.Tensor | None = None,
        trunk_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MoeEncoderOutput:
        """Encode and route.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: `(batch, frames)`, marks the padding for the router; found from the features if None.
            expert_weights: `(batch, experts)`, used instead of the router's choice.
            trunk_states: result of `trunk` for these features, so that it is not computed again.
        Raises:
            ValueError: the features have another number of frames, or the weights another shape or forbidden values.
        """
        hidden_states = self.trunk(input_features, **kwargs) if trunk_states is None else trunk_states
        router_logits = self.router(pool_real_frames(hidden_states, count_real_frames(input_features, attention_mask)))
        gates = self.gates(router_logits)
        weights, mixture_weights = self._route(gates, expert_weights)
        above = self.layers[self.config.router_layer :]
        if mixture_weights is not None and above:
            hidden_states = hidden_states.repeat_interleave(weights.shape[1], dim=0)  # (batch * k, positions, d_model)
        self.state.set(weights)
        hidden_states = self.layer_norm(self.run_layers(hidden_states, above, **kwargs))
        if mixture_weights is not None:
            k = mixture_weights.shape[1]
            # Without experts in the encoder all k states of an utterance are equal.
            hidden_states = (
                hidden_states.unflatten(0, (-1, k)) if above else hidden_states[:, None].expand(-1, k, -1, -1)
            )
        return MoeEncoderOutput(
            **divide_context(hidden_states, input_features.shape[-1]),
            expert_weights=weights,
            mixture_weights=mixture_weights,
            router_logits=router_logits,
            gates=gates,
        )

    def _route(
        self, gates: torch.Tensor, expert_weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`expert_weights` and `mixture_weights` of `MoeEncoderOutput`, from gates, or from weights that are given."""
        if expert_weights is None:
            weights = self.select(gates)
            if not self.training and not torch.compiler.is_compiling():
                logger.debug("routing: experts %s", weights.argmax(-1).tolist())
        else:
            weights = check_expert_weights(expert_weights, gates)
        if self.config.mixture != "logits" or (expert_weights is None and self.config.routing == "hard"):
            return weights, None
        if not torch.compiler.is_compiling() and not bool(weights.any(-1).all()):
            raise ValueError("`expert_weights` must hold at least one positive weight per row to mix outputs.")
        mixture_weights, weights = active_experts(weights, self.config, all_experts=expert_weights is not None)
        return weights, mixture_weights

    def show_audio(self, outputs: MoeEncoderOutput) -> MoeEncoderOutput:
        """The outputs of `encode` with hidden states and attentions cut to the audio, one row per utterance."""
        weights = outputs.mixture_weights
        if weights is not None and outputs.hidden_states is not None:
            *below, last = outputs.hidden_states
            outputs.hidden_states = (*mean_of_experts(below, weights), *mean_of_experts([last.flatten(0, 1)], weights))
        if weights is not None:
            outputs.attentions = mean_of_experts(outputs.attentions, weights)
        return super().show_audio(outputs)

    def trunk(self, input_features: torch.Tensor, **kwargs) -> torch.Tensor:
        """States after `router_layer` layers, `(batch, positions, d_model)`, which do not depend on experts."""
        return self.run_layers(self.embed_frames(input_features), self.layers[: self.config.router_layer], **kwargs)

    def gates(self, router_logits: torch.Tensor) -> torch.Tensor:
        """Gates `(batch, experts)` of the router's logits, see `gates_of`."""
        return gates_of(router_logits, self.config, self.training)

    def select(self, gates: torch.Tensor) -> torch.Tensor:
        """Weights over experts `(batch, experts)`, see `select_experts`."""
        return select_experts(gates, self.config, self.training)
