"""Import a CTranslate2 (faster-whisper) Whisper checkpoint into `WhisperForConditionalGeneration`.

`ModelSpec._serialize` in https://github.com/OpenNMT/CTranslate2/blob/master/python/ctranslate2/specs/model_spec.py
defines the layout of `model.bin`. Numbers are little endian. A string is a 16-bit length and that many bytes, of which
the last is NUL.
"""

import importlib.util
import json
import math
import re
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from hf_components.checkpoints.generation import whisper_generation_config
from hf_components.runtime import UserError, read_record

AGAIN = "download the checkpoint again"
BINARY_VERSION = 6
BFLOAT16 = 5  # read as uint16, since numpy has no such type
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16, BFLOAT16: np.uint16}
FILES = ("model.bin", "config.json", "tokenizer.json")
TIMESTAMPS = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]


def import_whisper(
    folder: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Read a folder with `model.bin`, `config.json` and `tokenizer.json`.

    Sizes come from the tensors, quantised weights are dequantised, and all weights are cast to `dtype`.

    Returns:
        the model in evaluation mode with its generation config, and its processor with the English spelling map.
    Raises:
        UserError: a file is missing or damaged, or the checkpoint is not a Whisper model.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} must hold {', '.join(FILES)}, but {name} is missing; give a CTranslate2 Whisper"
            )
    variables = read_ctranslate2(folder / "model.bin")
    try:
        config = whisper_config(variables)
        state_dict = whisper_state_dict(variables, config)
    except KeyError as error:
        raise UserError(f"{folder / 'model.bin'} lacks {error.args[0]!r}, which every Whisper has; {AGAIN}") from error
    tokenizer = load_tokenizer(folder / "tokenizer.json", config.vocab_size)
    generation_config = whisper_generation_config(_read_json(folder / "config.json"), tokenizer, config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "begin_suppress_tokens"):
        setattr(config, name, getattr(generation_config, name))

    with torch.device("meta"):  # saves the time and memory of initial weights
        model = WhisperForConditionalGeneration(config)
    try:
        model.load_state_dict(
            {name: torch.from_numpy(value).to(dtype) for name, value in state_dict.items()}, assign=True
        )
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip("\t .")
        raise UserError(f"the tensors of {folder / 'model.bin'} do not fit together: {detail}; {AGAIN}") from error
    model.tie_weights()
    model.config.dtype = dtype
    model.generation_config = generation_config
    return model.eval(), WhisperProcessor(WhisperFeatureExtractor(feature_size=config.num_mel_bins), tokenizer)


def read_ctranslate2(path: str | Path) -> dict[str, np.ndarray]:
    """Read the variables of a `model.bin`, including aliases.

    Returns:
        name -> read-only view of the memory-mapped file in its stored type; bfloat16 becomes float32.
    Raises:
        UserError: the file is not a CTranslate2 Whisper model, or it is truncated or damaged.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; {AGAIN}")
    reader = _Reader(path)
    version = reader.number("I")
    if version != BINARY_VERSION:
        raise UserError(
            f"{path} is not a CTranslate2 model of binary version {BINARY_VERSION}: its first number is {version}; "
            "convert the model again with CTranslate2"
        )
    specification = reader.string()
    if specification != "WhisperSpec":
        raise UserError(f"{path} must be a CTranslate2 'WhisperSpec', got {specification!r}; give a Whisper")
    reader.number("I")  # the revision of the specification, not needed: every variable is checked

    variables = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        variables[name] = reader.array(name)
    for _ in range(reader.number("I")):
        alias = reader.string()
        name = reader.string()
        if name not in variables:
            raise UserError(f"{path} is damaged: {alias!r} is an alias of {name!r}, which is missing; {AGAIN}")
        variables[alias] = variables[name]
    if reader.position != len(reader.data):
        raise UserError(f"{path} is damaged: {len(reader.data) - reader.position} bytes follow its end; {AGAIN}")
    return variables


class _Reader:
    """A cursor over a memory-mapped file; reading past the end raises UserError."""

    def __init__(self, path: Path):
        self.path = path
        self.data = np.memmap(path, dtype=np.uint8, mode="r")
        self.position = 0

    def take(self, size: int) -> int:
        start = self.position
        if start + size > len(self.data):
            raise UserError(
                f"{self.path} is truncated or damaged: {size} bytes are expected at {start}, the file has "
                f"{len(self.data)}; {AGAIN}"
            )
        self.position += size
        return start

    def number(self, code: str) -> int:
        return struct.unpack_from(f"<{code}", self.data, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        length = self.number("H")
        start = self.take(length)
        raw = self.data[start : start + length].tobytes()
        if not raw.endswith(b"\0") or not raw[:-1].isascii():
            raise UserError(f"{self.path} is damaged: a name is expected at byte {start}, got {raw[:20]!r}; {AGAIN}")
        return raw[:-1].decode("ascii")

    def array(self, name: str) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        code = self.number("B")
        size = self.number("I")
        if code not in DTYPES:
            raise UserError(f"{self.path} is damaged: {name!r} has type {code}, known are 0 to {max(DTYPES)}; {AGAIN}")
        dtype = np.dtype(DTYPES[code]).newbyteorder("<")
        count = math.prod(shape)
        if count * dtype.itemsize != size:
            raise UserError(
                f"{self.path} is damaged: {name!r} of shape {shape} and type {dtype.name} has {size} bytes; {AGAIN}"
            )
        value = np.frombuffer(self.data, dtype, count, self.take(size)).reshape(shape)
        if code == BFLOAT16:  # the upper half of a float32
            value = (value.astype(np.uint32) << 16).view(np.float32)
        return value


def whisper_config(variables: dict[str, np.ndarray]) -> WhisperConfig:
    """The configuration with every size from the shapes of the tensors; a missing tensor raises KeyError."""
    d_model, mel_bins, _ = variables["encoder/conv1/weight"].shape
    sizes = {}
    for part in ("encoder", "decoder"):
        layers = {match[1] for name in variables if (match := re.match(rf"{part}/layer_(\d+)/", name))}
        sizes[f"{part}_layers"] = len(layers)
        sizes[f"{part}_ffn_dim"] = variables[f"{part}/layer_0/ffn/linear_0/weight"].shape[0]
        # Early converters did not store the number of heads. In every released Whisper a head has 64 dimensions.
        sizes[f"{part}_attention_heads"] = int(variables.get(f"{part}/num_heads", d_model // 64))
    return WhisperConfig(
        vocab_size=variables["decoder/embeddings/weight"].shape[0],
        num_mel_bins=mel_bins,
        d_model=d_model,
        max_source_positions=variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=variables["decoder/position_encodings/encodings"].shape[0],
        tie_word_embeddings=_is_tied(variables),
        **sizes,
    )


def whisper_state_dict(variables: dict[str, np.ndarray], config: WhisperConfig) -> dict[str, np.ndarray]:
    """Rename, split and dequantise into the state dict of `WhisperForConditionalGeneration`; raises KeyError."""
    tensors: dict[str, np.ndarray] = {}

    def linear(source: str, *targets: str) -> None:
        """Split `source`, which holds the rows of all `targets` one after the other."""
        weights = np.split(_dequantise(variables, f"{source}/weight"), len(targets))
        biases = np.split(_dequantise(variables, f"{source}/bias"), len(targets))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            tensors[f"{target}.weight"] = weight
            if not target.endswith("k_proj"):  # Whisper has no bias there: it would add the same to every score
                tensors[f"{target}.bias"] = bias

    def norm(source: str, target: str) -> None:
        tensors[f"{target}.weight"] = _dequantise(variables, f"{source}/gamma")
        tensors[f"{target}.bias"] = _dequantise(variables, f"{source}/beta")

    for convolution in ("conv1", "conv2"):
        linear(f"encoder/{convolution}", f"model.encoder.{convolution}")
    for part, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        tensors[f"model.{part}.embed_positions.weight"] = _dequantise(
            variables, f"{part}/position_encodings/encodings"
        )
        norm(f"{part}/layer_norm", f"model.{part}.layer_norm")
        for index in range(layers):
            source = f"{part}/layer_{index}"
            target = f"model.{part}.layers.{index}"
            linear(f"{source}/self_attention/linear_0", *(f"{target}.self_attn.{p}_proj" for p in "qkv"))
            linear(f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj")
            norm(f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm")
            if part == "decoder":
                linear(f"{source}/attention/linear_0", f"{target}.encoder_attn.q_proj")
                linear(f"{source}/attention/linear_1", *(f"{target}.encoder_attn.{p}_proj" for p in "kv"))
                linear(f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
                norm(f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
            linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            linear(f"{source}/ffn/linear_1", f"{target}.fc2")
            norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    embeddings = _dequantise(variables, "decoder/embeddings/weight")
    tensors["model.decoder.embed_tokens.weight"] = embeddings
    tied = config.tie_word_embeddings
    tensors["proj_out.weight"] = embeddings if tied else _dequantise(variables, "decoder/projection/weight")
    return tensors


def _is_tied(variables: dict[str, np.ndarray]) -> bool:
    embeddings = variables["decoder/embeddings/weight"]
    projection = variables["decoder/projection/weight"]
    return embeddings is projection or np.array_equal(embeddings, projection)


def _dequantise(variables: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A writable float32 copy; integers are divided by their scale (one per row, or one per int16 matrix)."""
    value = np.array(variables[name], dtype=np.float32)
    if np.issubdtype(variables[name].dtype, np.integer):
        scale = np.asarray(variables[f"{name}_scale"], dtype=np.float32)
        value /= scale.reshape(-1, *[1] * (value.ndim - 1))
    return value


def load_tokenizer(path: Path, vocab_size: int) -> WhisperTokenizer:
    """A `WhisperTokenizer` from `tokenizer.json`, with openai-whisper's English spelling map and all timestamps."""
    backend = _read_json(path)
    # Timestamps are not special tokens: `decode` expects their ids above the last special one.
    special = [token["content"] for token in backend.get("added_tokens", []) if token["special"]]
    if "<|startoftranscript|>" not in special:
        raise UserError(
            f"{path} is not the tokenizer of a Whisper model: it has no token '<|startoftranscript|>'; {AGAIN}"
        )
    settings = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 1024,
        "extra_special_tokens": special,
    }
    with tempfile.TemporaryDirectory() as folder:  # only from_pretrained keeps the stored tokenizer pipeline
        shutil.copy(path, Path(folder) / "tokenizer.json")
        shutil.copy(english_spelling_map(), Path(folder) / "normalizer.json")
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        tokenizer = WhisperTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(stamp, normalized=False, special=False) for stamp in TIMESTAMPS])
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"{path} has {len(tokenizer)} tokens with its timestamps, the model has {vocab_size}; they do not belong "
            f"to the same checkpoint; {AGAIN}"
        )
    return tokenizer


def english_spelling_map() -> Path:
    """The map from British to American spelling in the package data of openai-whisper."""
    return Path(importlib.util.find_spec("whisper").origin).parent / "normalizers" / "english.json"


def _read_json(path: Path) -> dict:
    return read_record(path, dict, "convert or download the checkpoint again")
