"""How many frames a recogniser writes, by private methods of transformers' models; no public one says it.

No other file of this package calls these methods. Each model has those of one of two forms.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel


@runtime_checkable
class Subsampling(Protocol):
    """Parakeet and newer models, transducers, and this project's Whisper with CTC; others are like wav2vec2."""

    def _get_subsampling_output_length(self, input_lengths: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class WithOutputMask(Protocol):
    """Parakeet and newer models; others are like wav2vec2."""

    def _get_output_attention_mask(self, attention_mask: torch.Tensor, target_length: int) -> torch.Tensor: ...


def output_lengths(model: PreTrainedModel, lengths: torch.Tensor) -> torch.Tensor:
    """Number of output frames of each clip, `(clips,)`.

    Args:
        lengths: number of samples, or of features if the model takes these, `(clips,)`.
    """
    if isinstance(model, Subsampling):
        return model._get_subsampling_output_length(lengths)
    return model._get_feat_extract_output_lengths(lengths)


def real_frames(model: PreTrainedModel, shape: Sequence[int], attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The output frames that are not padding, bool `(batch, frames)`.

    Args:
        shape: (batch, frames) of the model's output.
        attention_mask: mask over its inputs `(batch, samples or features)`; None: there is no padding.
    """
    if attention_mask is None:
        return torch.ones(tuple(shape), dtype=torch.bool)
    if isinstance(model, WithOutputMask):
        return model._get_output_attention_mask(attention_mask, target_length=shape[1]).bool()
    return model._get_feature_vector_attention_mask(shape[1], attention_mask).bool()
