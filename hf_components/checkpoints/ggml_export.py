"""Export a Whisper to ggml, the format of whisper.cpp, which runs on phones and laptops without Python.

A file has, in little endian: the magic number, the sizes of the model, the mel filters, the byte strings of the
vocabulary below the special tokens, and the tensors, each with its own head. Names are those of OpenAI's checkpoints.
Format: https://github.com/ggml-org/whisper.cpp, models/convert-h5-to-ggml.py and src/whisper.cpp (commits of 2025).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hf_components.runtime import UserError

MAGIC = 0x67676D6C
FLOAT32, FLOAT16 = 0, 1  # types of tensors
# Type of the matrices by name: of a tensor, and of the file. The version of the quantised formats is 2.
TYPES = {"float16": (FLOAT16, 1), "q8_0": (8, 2007), "q5_0": (6, 2008)}
FFT_BINS = 201

# Parts of the names in transformers, and what OpenAI calls them, in this order.
NAMES = {
    r"^model\.": "",
    r"\.embed_positions\.weight$": ".positional_embedding",
    r"\.embed_tokens\.": ".token_embedding.",
    r"^encoder\.layer_norm\.": "encoder.ln_post.",
    r"^decoder\.layer_norm\.": "decoder.ln.",
    r"\.layers\.": ".blocks.",
    r"\.self_attn_layer_norm\.": ".attn_ln.",
    r"\.encoder_attn_layer_norm\.": ".cross_attn_ln.",
    r"\.final_layer_norm\.": ".mlp_ln.",
    r"\.self_attn\.": ".attn.",
    r"\.encoder_attn\.": ".cross_attn.",
    r"\.q_proj\.": ".query.",
    r"\.k_proj\.": ".key.",
    r"\.v_proj\.": ".value.",
    r"\.out_proj\.": ".out.",
    r"\.fc1\.": ".mlp.0.",
    r"\.fc2\.": ".mlp.2.",
}


def export_ggml(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, file: str | Path, quantization: str
) -> None:
    """Write a plain Whisper as one file of whisper.cpp.

    Args:
        model: plain Whisper, with adapters merged.
        processor: processor of the same checkpoint.
        file: file to write; its folder exists.
        quantization: type of the matrices, one of `TYPES`; the rest is float16 or float32, as whisper.cpp expects.
    Raises:
        UserError: a matrix is too narrow for blocks of 32 values.
    """
    of_matrices, of_file = TYPES[quantization]
    config = model.config
    filters = np.asarray(processor.feature_extractor.mel_filters, np.float32).T
    with Path(file).open("wb") as out:
        _write_integers(out, MAGIC)
        _write_integers(
            out,
            config.vocab_size,
            config.max_source_positions,
            config.d_model,
            config.encoder_attention_heads,
            config.encoder_layers,
            config.max_target_positions,
            config.d_model,
            config.decoder_attention_heads,
            config.decoder_layers,
            config.num_mel_bins,
            of_file,
        )
        _write_integers(out, *filters.shape)
        out.write(filters.tobytes())
        words = list(vocabulary(processor))
        _write_integers(out, len(words))
        for word in words:
            _write_integers(out, len(word))
            out.write(word)
        for name, tensor in model.state_dict().items():
            if name != "proj_out.weight":  # the same as the embeddings
                _write_tensor(out, ggml_name(name), tensor.detach().float().cpu().numpy(), of_matrices)


def find_ggml(folder: Path) -> Path | None:
    """The file for whisper.cpp in a folder, as `recipes/export_ggml.py` names it."""
    return next(folder.glob("ggml-model-*.bin"), None)


def ggml_name(name: str) -> str:
    """Name of a tensor of transformers' Whisper in OpenAI's checkpoints."""
    for pattern, other in NAMES.items():
        name = re.sub(pattern, other, name)
    return name


def vocabulary(processor: WhisperProcessor) -> Iterator[bytes]:
    """Bytes of each token below the end of text, in the order of the ids."""
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    tokenizer = processor.tokenizer
    for token in tokenizer.convert_ids_to_tokens(range(tokenizer.eos_token_id)):
        yield bytes(byte_of[character] for character in token)


def _write_tensor(out: BinaryIO, name: str, values: np.ndarray, of_matrices: int) -> None:
    if re.search(r"conv\d\.bias$", name):
        values = values[:, None]
        kind = FLOAT32
    elif values.ndim == 1 or name.endswith("positional_embedding"):
        kind = FLOAT32
    elif values.ndim == 3:  # convolutions are not quantised
        kind = min(of_matrices, FLOAT16)
    else:
        kind = of_matrices
    encoded = name.encode()
    _write_integers(out, values.ndim, len(encoded), kind, *reversed(values.shape))
    out.write(encoded)
    out.write(_in_type(values, kind, name).tobytes())


def _in_type(values: np.ndarray, kind: int, name: str) -> np.ndarray:
    if kind == FLOAT32:
        return values.astype(np.float32)
    if kind == FLOAT16:
        return values.astype(np.float16)
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    block, _ = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if values.shape[1] % block:
        raise UserError(f"{name} has {values.shape[1]} columns, and whisper.cpp packs {block} at a time; take float16")
    return quantize(np.ascontiguousarray(values, np.float32), GGMLQuantizationType(kind))


def _write_integers(out: BinaryIO, *values: int) -> None:
    out.write(struct.pack(f"<{len(values)}i", *values))
