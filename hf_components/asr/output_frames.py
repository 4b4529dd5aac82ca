"""How many frames a recogniser writes, by private methods of transformers' models; no public one says it.

No other file of this package calls these methods. Parakeet, newer models, transducers and this project's Whisper with
CTC have others than wav2vec2 and its like. A model is asked for a method and not for its class, because a wrapper of
PEFT passes methods on.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


def output_lengths(model: PreTrainedModel, lengths: torch.Tensor) -> torch.Tensor:
    """Number of output frames of each clip, `(clips,)`.

    Args:
        lengths: number of samples, or of features if the model takes these, `(clips,)`.
    """
    if hasattr(model, "_get_subsampling_output_length"):
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
    if hasattr(model, "_get_output_attention_mask"):
        return model._get_output_attention_mask(attention_mask, target_length=shape[1]).bool()
    return model._get_feature_vector_attention_mask(shape[1], attention_mask).bool()
