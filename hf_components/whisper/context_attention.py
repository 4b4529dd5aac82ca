"""The decoder's attention to the encoder: it knows what represents silence, and beams share what they hear."""

from typing import Self

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperDecoder, eager_attention_forward

from .routed_lora import RoutedLinear
from .silence import context_bias


class BeamCache(EncoderDecoderCache):
    """The cache of a beam search in which all beams of an utterance attend to the same keys and values.

    Stock transformers copies the encoder's keys and values for each beam, reads all copies for each token, and sorts
    them after it. With the 1500 positions of 30 s that takes most of the time, and of the memory.

    Attributes:
        beams: beams of each utterance, which are neighbouring rows of a batch.
    """

    beams: int

    @classmethod
    def of(cls, cache: Cache | None, beams: int) -> Self | None:
        """The same cache for beams that share, or None if it is filled already, or of fixed size."""
        cross = getattr(cache, "cross_attention_cache", None)
        if not isinstance(cross, DynamicCache) or cross.get_seq_length():
            return None
        shared = cls(cache.self_attention_cache, cross)
        shared.beams = beams
        return shared

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Sort what the beams have written; what they hear is the same for all beams of an utterance.

        Args:
            beam_idx: for each row the beam that it goes on from, `(batch,)`.
        """
        self.self_attention_cache.reorder_cache(beam_idx)

    def copied(self) -> EncoderDecoderCache:
        """As in stock transformers: a copy of keys and values for each beam."""
        self.cross_attention_cache.batch_repeat_interleave(self.beams)
        return EncoderDecoderCache(self.self_attention_cache, self.cross_attention_cache)


class ContextAttention(WhisperAttention):
    """The decoder's attention to an encoder whose last states represent silence."""

    def forward(self, hidden_states, key_value_states=None, past_key_values=None, attention_mask=None, **kwargs):
        """The same as in stock Whisper, but each key counts for the positions that it represents.

        Args:
            hidden_states: `(batch, tokens, d_model)`.
            key_value_states: states of audio and silence, `(batch, positions, d_model)`.
            past_key_values: with a `BeamCache` the beams of an utterance are queries to one copy of its keys.
            attention_mask: not used, the same as for stock Whisper's encoder.
        """
        beams = getattr(past_key_values, "beams", 1)
        tokens = hidden_states.shape[1]
        queries = self._heads(self.q_proj(hidden_states) * self.scaling)
        keys, values = self._keys_and_values(key_value_states, past_key_values, beams)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(
            self,
            queries.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3),  # (utterances, heads, beams * tokens, ..)
            keys,
            values,
            context_bias(key_value_states, self.config),
            dropout=self.dropout if self.training else 0.0,
            scaling=1.0,  # the queries are scaled
            **kwargs,
        )
        if weights is not None:  # (batch, heads, tokens, positions)
            weights = weights.unflatten(2, (beams, tokens)).transpose(1, 2).flatten(0, 1)
        return self.out_proj(attended.reshape(hidden_states.shape)), weights

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch, any, d_model)` to `(batch, heads, any, head_dim)`."""
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2).contiguous()

    def _keys_and_values(
        self, states: torch.Tensor, cache: EncoderDecoderCache | None, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of each utterance, `(batch / beams, heads, positions, head_dim)`."""
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        projections = (self.k_proj, self.v_proj)
        if any(isinstance(projection, RoutedLinear) for projection in projections):  # which has weights for each row
            keys, values = (self._heads(projection(states)[::beams]) for projection in projections)
        else:
            keys, values = (self._heads(projection(states[::beams])) for projection in projections)
        if cache is not None:
            cache.is_updated[self.layer_idx] = True
            keys, values = cache.cross_attention_cache.update(keys, values, self.layer_idx)
        return keys, values


def attend_to_context(decoder: WhisperDecoder) -> None:
    """Give a new, untrained decoder cross-attention that knows which encoder states represent silence."""
    config = decoder.config
    for index, layer in enumerate(decoder.layers):
        layer.encoder_attn = ContextAttention(
            config.d_model,
            config.decoder_attention_heads,
            dropout=config.attention_dropout,
            is_decoder=True,
            layer_idx=index,
            config=config,
        )
