"""The loss of every utterance with every expert, which tells the router in training which expert suits it."""

import torch

from .losses import labels_to_decoder_input
from .mixing import summed_losses


class ExpertLossesMixin:
    """`expert_losses` of MoE-Whisper."""

    @torch.no_grad()
    def expert_losses(
        self, input_features: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean token loss of every utterance with every expert, without gradients or dropout.

        Call this before the forward pass of the training step, because it also sets the routing state.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            labels: `(batch, tokens)`, -100 is ignored.
            attention_mask: `(batch, frames)`; found from the features if None.
        Returns:
            losses `(batch, experts)`, and the encoder's `trunk_states` for that forward pass, or None if they would
            be different there.
        Raises:
            ValueError: the labels are longer than the decoder's positions.
        """
        training = [module for module in self.modules() if module.training]
        varies = self._trunk_varies()
        self.eval()
        every = input_features.new_ones(1, self.config.num_experts)
        try:
            with self.override(mixture="logits"):
                trunk_states = self.model.encoder.trunk(input_features)
                outputs = self.model(
                    input_features,
                    attention_mask,
                    labels_to_decoder_input(labels, self.config),
                    expert_weights=every,
                    trunk_states=trunk_states,
                    use_cache=False,
                )
        finally:
            for module in training:
                module.training = True
        states = outputs.last_hidden_state.unflatten(0, (len(labels), -1))  # (batch, experts, tokens, d_model)
        # One expert after the other: the vocabulary of all at once would take more memory than the training step.
        summed = [summed_losses(self.proj_out(s).float().log_softmax(-1), labels) for s in states.split(1, dim=1)]
        losses = torch.cat(summed, dim=1) / (labels != -100).sum(-1).clamp(min=1)[:, None]
        return losses, None if varies else trunk_states

    def _trunk_varies(self) -> bool:
        """Whether the layers below the router may compute something else in a forward pass with gradients."""
        config = self.config
        encoder = self.model.encoder
        trunk = [encoder.conv1, encoder.conv2, *encoder.layers[: config.router_layer]]
        is_random = config.dropout or config.attention_dropout or config.activation_dropout
        is_trained = any(parameter.requires_grad for module in trunk for parameter in module.parameters())
        return bool(is_random or config.apply_spec_augment or is_trained)
