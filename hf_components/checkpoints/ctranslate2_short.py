"""Export a Whisper to CTranslate2 such that a clip is heard at its own length, not in a window of 30 s.

A few encoder states represent the silence after a clip, see `hf_components.whisper.silence`: log n is added to
the score of a state that represents n equal ones. CTranslate2 adds nothing to scores, so log n becomes part of the
product of query and key. Each head of the decoder's attention to the audio gets `EXTRA` more dimensions: in the first
of them every query is 1, and every key is the log n that comes with its state. In its encoder's self-attention this
has no place, because a layer norm stands before it. The encoder therefore runs in PyTorch, and CTranslate2 has the
decoder, where most of the time of short clips goes.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec
from ctranslate2.specs.whisper_spec import WhisperEncoderSpec, WhisperSpec
from transformers import WhisperProcessor

from hf_components.checkpoints.ctranslate2_engine import EXTRA
from hf_components.checkpoints.loading import save_processor
from hf_components.whisper import DynamicContextWhisper

UNUSED = 8  # size of the layers that CTranslate2 wants to find in an encoder


class ShortContextConverter(TransformersConverter):
    """Converts the decoder of a Whisper, with log n in its attention to the audio, and no encoder."""

    def _load(self) -> WhisperSpec:
        spec = super()._load()
        heads = int(spec.decoder.num_heads)
        for layer in spec.decoder.layer:
            widen(layer.attention, heads)
        spec.encoder = no_encoder(spec.decoder.layer_norm.gamma.shape[0] + EXTRA)
        return spec


def widen(attention: MultiHeadAttentionSpec, heads: int) -> None:
    """Add `EXTRA` dimensions to each head of an attention, in place; its states have `EXTRA` more dimensions, too.

    The weights are `(out, in)`, with the heads one after the other in `out`; those of keys and values are stacked.
    """
    queries, keys_and_values, output = attention.linear
    size = len(_array(queries.weight))
    scale = np.float32(heads / size) ** np.float32(0.5)  # of the scores, which the new dimensions must not change

    query_bias = _more_rows(_array(queries.bias)[:, None], heads)
    query_bias.reshape(heads, -1)[:, -EXTRA] = 1 / scale
    queries.weight = _more_rows(_array(queries.weight), heads)
    queries.bias = query_bias[:, 0]

    weights = np.pad(_array(keys_and_values.weight), ((0, 0), (0, EXTRA)))
    keys = _more_rows(weights[:size], heads)
    keys.reshape(heads, -1, size + EXTRA)[:, -EXTRA, size] = 1
    biases = _array(keys_and_values.bias)[:, None]
    keys_and_values.weight = np.concatenate([keys, _more_rows(weights[size:], heads)])
    keys_and_values.bias = np.concatenate([_more_rows(half, heads) for half in np.split(biases, 2)])[:, 0]

    output.weight = np.ascontiguousarray(_more_rows(_array(output.weight).T, heads).T)
    attention.queries_scale = scale


def _more_rows(weights: np.ndarray, heads: int) -> np.ndarray:
    """Weights `(heads * d, in)` with `EXTRA` rows of zeros after those of each head."""
    by_head = weights.reshape(heads, -1, weights.shape[1])
    return np.pad(by_head, ((0, 0), (0, EXTRA), (0, 0))).reshape(-1, weights.shape[1])


def no_encoder(size: int) -> WhisperEncoderSpec:
    """An encoder that is never run; CTranslate2 takes `size` for that of the states which it is given."""
    encoder = WhisperEncoderSpec(1, 1)
    layer = encoder.layer[0]
    for convolution in (encoder.conv1, encoder.conv2):
        convolution.weight = np.zeros((UNUSED, 1 if convolution is encoder.conv1 else UNUSED, 1), np.float32)
        convolution.bias = np.zeros(UNUSED, np.float32)
    encoder.position_encodings.encodings = np.zeros((1, UNUSED), np.float32)
    linears = (*layer.self_attention.linear, layer.ffn.linear_0, layer.ffn.linear_1)
    for linear, rows in zip(linears, (3 * UNUSED, UNUSED, UNUSED, UNUSED), strict=True):
        linear.weight = np.zeros((rows, UNUSED), np.float32)
        linear.bias = np.zeros(rows, np.float32)
    norms = (encoder.layer_norm, layer.self_attention.layer_norm, layer.ffn.layer_norm)
    for norm, width in zip(norms, (size, UNUSED, UNUSED), strict=True):
        norm.gamma = np.ones(width, np.float32)
        norm.beta = np.zeros(width, np.float32)
    return encoder


def save_encoder(
    model: DynamicContextWhisper, processor: WhisperProcessor, folder: Path, dtype: torch.dtype, least: int
) -> None:
    """Save the encoder with the settings of the whole model, and the processor.

    Args:
        dtype: type of the stored weights.
        least: `min_audio_context` of the export.
    """
    encoder = copy.deepcopy(model.model.encoder).to("cpu", dtype)
    encoder.config.audio_context = "dynamic"
    encoder.config.min_audio_context = least
    encoder.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    save_processor(processor, folder)


def _array(value) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy()
    return np.asarray(value, np.float32)
