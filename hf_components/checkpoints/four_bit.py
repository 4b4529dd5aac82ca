"""Linear layers in 4 bits by bitsandbytes: how they are made, and how much memory a model with them takes."""

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

BLOCK = 64  # weights with a scale in common
BLOCK_OF_SCALES = 256  # scales with a scale of their own in common
TABLES = 16 + 256 + 1  # float32 per layer: the 16 values of NF4, the 256 of a scale, and the mean of the scales


def four_bit(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with quantised scales, as in QLoRA (Dettmers et al. 2023)."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def weight_bytes(model: PreTrainedModel, dtype: torch.dtype, in_4_bit: bool) -> int:
    """Bytes that the weights of a model take, loaded in `dtype`, or with its linear layers in 4 bits.

    Its weights may be on the meta device. What writes its output is never quantised.
    """
    output = model.get_output_embeddings()
    quantised = {
        id(layer.weight)
        for layer in model.modules()
        if in_4_bit and type(layer) is torch.nn.Linear and layer is not output
    }
    return sum(
        bytes_in_4_bit(weight.numel()) if id(weight) in quantised else weight.numel() * dtype.itemsize
        for weight in model.parameters()
    )


def bytes_in_4_bit(weights: int) -> int:
    """Bytes of a linear layer with so many weights: two in a byte, their scales, and the scales of the scales."""
    scales = -(-weights // BLOCK)
    return -(-weights // 2) + scales + 4 * (-(-scales // BLOCK_OF_SCALES) + TABLES)
