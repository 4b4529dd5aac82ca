"""The silence after a clip, as a few encoder states that each stand for many.

Whisper needs the silence after a clip. If it is cut off, the attention to it moves to the speech, and the decoder
repeats itself. All of this silence is alike, so a few positions represent it: if log n is added to the score of a key,
it counts as n equal keys in the softmax.
"""

import math
from dataclasses import dataclass

import torch
from transformers import WhisperConfig
from transformers.modeling_outputs import BaseModelOutput

SILENT_SHARE = 100  # 1 / this of the positions of a full window represent the silence after shorter audio


def silent_positions(config: WhisperConfig) -> int:
    """Number of positions that represent the silence after audio that is shorter than the window."""
    return max(1, config.max_source_positions // SILENT_SHARE)


@dataclass
class DynamicContextOutput(BaseModelOutput):
    """An encoder's states of the audio, and those that represent the silence up to the end of the window.

    Hidden states and attentions are those of the audio alone, so their shapes are stock Whisper's. An attention's rows
    add up to less than 1 where silence gets the rest.

    Args:
        silent_states: `(batch, silent_positions, d_model)`; None if the audio fills the window.
    """

    silent_states: torch.FloatTensor | None = None

    @classmethod
    def from_tuple(cls, outputs: tuple) -> "DynamicContextOutput":
        """What an encoder returned with `return_dict=False`: states, and perhaps another tensor for the silence."""
        silent = next((output for output in outputs[1:] if isinstance(output, torch.Tensor)), None)
        return cls(last_hidden_state=outputs[0], silent_states=silent)


def without_silence(attentions: tuple[torch.Tensor, ...] | None, positions: int) -> tuple[torch.Tensor, ...] | None:
    """Attention to the audio: of each layer the first `positions` keys.

    Args:
        attentions: per layer `(batch, heads, queries, keys)`, or None.
    """
    if not attentions or attentions[0] is None or attentions[0].shape[-1] == positions:
        return attentions
    return tuple(attention[..., :positions] for attention in attentions)


def whole_context(outputs: BaseModelOutput, config: WhisperConfig) -> torch.Tensor:
    """The states of audio and silence, which a decoder attends to.

    Args:
        outputs: an encoder's, with states `(batch, positions, d_model)`, or `(batch, k, positions, d_model)`.
    Returns:
        the same shape, with as many positions more as represent the silence.
    Raises:
        ValueError: the states are shorter than the window, and those of the silence are missing.
    """
    states = outputs[0]
    silent = getattr(outputs, "silent_states", None)
    if silent is not None:
        return torch.cat([states, silent], dim=-2)
    if states.shape[-2] < config.max_source_positions:
        raise ValueError(
            "`encoder_outputs` must come from this model's own encoder, which adds the silence after short audio; "
            f"got {states.shape[-2]} positions of {config.max_source_positions} without it."
        )
    return states


def divide_context(states: torch.Tensor, frames: int) -> dict[str, torch.Tensor | None]:
    """Fields of a `DynamicContextOutput`.

    Args:
        states: states of audio and silence, `(..., positions, d_model)`.
        frames: mel frames of the audio, two per position.
    """
    real = frames // 2
    return {
        "last_hidden_state": states[..., :real, :],
        "silent_states": states[..., real:, :] if real < states.shape[-2] else None,
    }


def context_bias(states: torch.Tensor, config: WhisperConfig) -> torch.Tensor | None:
    """The bias of attention scores: log of the number of positions that each key represents.

    Args:
        states: states of audio and silence, `(batch, positions, d_model)`.
    Returns:
        `(1, 1, 1, positions)`, or None if each key represents itself only.
    """
    positions = states.shape[1]
    silent = silent_positions(config)
    if positions >= config.max_source_positions:
        return None
    stands_for = (config.max_source_positions - (positions - silent)) / silent
    bias = states.new_zeros(1, 1, 1, positions)
    bias[..., positions - silent :] = math.log(stands_for)
    return bias
