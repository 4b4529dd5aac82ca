"""Whisper's encoder for 2 to 3000 mel frames. With 3000 there is no silence to represent, and it is stock."""

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .mel_frames import count_real_frames, fit_audio_context, pool_real_frames
from .silence import DynamicContextOutput, context_bias, divide_context, silent_positions

TAKE_BIAS = ("eager", "sdpa")  # attention that can add to scores; with any other the encoder gets the full window
EDGE_FRAMES = 8  # silent frames for the convolutions: from the third silent position on, they see no audio


class DynamicContextEncoder(WhisperEncoder):
    """Whisper's encoder for any even number of mel frames up to `2 * max_source_positions`.

    Its layers see the frames, two per position, and then `silent_positions` for the rest of the window.
    """

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self.embed_positions:
            # transformers skips these in its own encoder alone: it takes the parameters for initialised elsewhere.
            init.copy_(module.weight, sinusoids(*module.weight.shape))

    @can_return_tuple
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> DynamicContextOutput:
        """Encode the audio.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: not used, the same as in stock Whisper.
        Returns:
            states of the audio `(batch, frames / 2, d_model)`, and of the silence after it.
        Raises:
            ValueError: the features have another number of frames.
        """
        return self.show_audio(self.encode(input_features, attention_mask, **kwargs, return_dict=True))

    @merge_with_config_defaults
    @capture_outputs
    def encode(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> DynamicContextOutput:
        """The same as `forward`, but hidden states and attentions, if asked for, are of audio and silence.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: not used, the same as in stock Whisper.
        """
        hidden_states = self.run_layers(self.embed_frames(input_features), self.layers, **kwargs)
        return DynamicContextOutput(**divide_context(self.layer_norm(hidden_states), input_features.shape[-1]))

    def show_audio(self, outputs: DynamicContextOutput) -> DynamicContextOutput:
        """The outputs of `encode` with hidden states and attentions cut to the audio."""
        real = outputs.last_hidden_state.shape[-2]
        if outputs.silent_states is not None and outputs.hidden_states is not None:
            outputs.hidden_states = tuple(states[..., :real, :] for states in outputs.hidden_states)
        if outputs.silent_states is not None and outputs.attentions and outputs.attentions[0] is not None:
            outputs.attentions = tuple(attention[..., :real, :real] for attention in outputs.attentions)
        return outputs

    def embed_frames(self, input_features: torch.Tensor) -> torch.Tensor:
        """Convolutions and position embeddings: `(batch, num_mel_bins, frames)` to `(batch, positions, d_model)`.

        Raises:
            ValueError: the number of frames is odd, or more than the window.
        """
        frames = input_features.shape[-1]
        longest = 2 * self.max_source_positions
        if frames % 2 or not 2 <= frames <= longest:
            raise ValueError(
                f"`input_features` must have an even number of mel frames in [2, {longest}], got {frames}."
            )
        real = frames // 2
        window = self.max_source_positions
        silent = silent_positions(self.config)
        if real > window - silent or self.config._attn_implementation not in TAKE_BIAS:
            real = window
        input_features = fit_audio_context(input_features, 2 * real + (EDGE_FRAMES if real < window else 0))
        hidden_states = nn.functional.gelu(self.conv1(input_features))
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).transpose(1, 2)
        heard = torch.arange(real, device=hidden_states.device)
        if real < window:
            centres = real + (torch.arange(silent, device=heard.device) + 0.5) * (window - real) / silent
            silence = hidden_states[:, real + 2 : real + 3].expand(-1, silent, -1)
            heard = torch.cat([heard, centres.long()])
            hidden_states = torch.cat([hidden_states[:, :real], silence], dim=1)
        hidden_states = hidden_states + self.embed_positions.weight[heard]
        return nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)

    def run_layers(self, hidden_states: torch.Tensor, layers: nn.ModuleList, **kwargs) -> torch.Tensor:
        """States `(batch, positions, d_model)` of audio and silence, after some of the encoder's layers."""
        bias = context_bias(hidden_states, self.config)
        for layer in layers:
            hidden_states = layer(hidden_states, bias, **kwargs)
        return hidden_states

    def embed(
        self, input_features: torch.Tensor, layer: int, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean over real frames of the hidden states after `layer` layers.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            layer: number of layers, 0 to all of them.
            attention_mask: `(batch, frames)`, 1 for audio; found from the features if None.
        Returns:
            `(batch, d_model)` in float32.
        """
        hidden_states = self.run_layers(self.embed_frames(input_features), self.layers[:layer])
        return pool_real_frames(hidden_states, count_real_frames(input_features, attention_mask))
