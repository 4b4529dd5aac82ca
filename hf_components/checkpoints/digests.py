"""Digests of weights: which model an adapter, an expert or a voice belongs to."""

import hashlib
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel, WhisperForConditionalGeneration

from hf_components.whisper.routed_lora import stock_weights

BEGINNING = 64  # first values of each weight that a digest reads


def digest_of_base(model: WhisperForConditionalGeneration) -> str:
    """A digest of a Whisper's own weights without the experts: of the first values of each weight, in bfloat16."""
    return _digest(stock_weights(model))


def digest_of_model(model: PreTrainedModel) -> str:
    """A digest of all weights, those of experts and router too: of the first values of each, in bfloat16.

    For a Whisper without experts it is the same as `digest_of_base`.
    """
    return _digest({name.replace(".linear.", "."): value for name, value in model.state_dict().items()})


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        values = value.flatten()[:BEGINNING].to("cpu", torch.bfloat16).view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]
