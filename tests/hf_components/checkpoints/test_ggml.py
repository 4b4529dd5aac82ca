"""Files of whisper.cpp: read back as its format says, and run by whisper.cpp itself."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from paths import ROOT
from tiny_speech import rows, tiny_processor, tiny_whisper

from hf_components.asr.transcriber import transcribe
from hf_components.checkpoints.ggml_engine import audio_positions, transcribe_ggml
from hf_components.checkpoints.ggml_export import export_ggml, ggml_name, vocabulary
from hf_components.checkpoints.loading import load_whisper
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import waveforms

TINY_EN = ROOT / "models" / "whisper-tiny.en"
SIZES = (
    "vocab_size",
    "max_source_positions",
    "d_model",
    "encoder_attention_heads",
    "encoder_layers",
    "max_target_positions",
    "d_model",
    "decoder_attention_heads",
    "decoder_layers",
    "num_mel_bins",
)


def read(file: Path) -> tuple[list[int], np.ndarray, list[bytes], dict[str, np.ndarray]]:
    """Sizes, mel filters, vocabulary and tensors of a file."""
    data = file.read_bytes()
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        place += count
        return data[place - count : place]

    def integers(count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", take(4 * count))

    assert take(4) == b"lmgg"
    sizes = integers(11)
    shape = integers(2)
    filters = np.frombuffer(take(4 * shape[0] * shape[1]), np.float32).reshape(shape)
    words = [take(integers(1)[0]) for _ in range(integers(1)[0])]
    tensors = {}
    while place < len(data):
        dimensions, length, kind = integers(3)
        shape = integers(dimensions)[::-1]
        name = take(length).decode()
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        raw = np.frombuffer(take(int(np.prod(shape)) // block * size), np.uint8)
        rows = raw.reshape(*shape[:-1], -1)
        tensors[name] = dequantize(rows, GGMLQuantizationType(kind)).reshape(shape)
    return list(sizes), filters, words, tensors


@pytest.mark.unit
@pytest.mark.parametrize(("quantization", "kind", "tolerance"), [("float16", 1, 1e-3), ("q8_0", 2007, 0.02)])
def test_a_file_holds_the_whole_model(tmp_path, quantization, kind, tolerance):
    model, processor = tiny_whisper(width=32), tiny_processor()
    export_ggml(model, processor, tmp_path / "a.bin", quantization)
    sizes, filters, words, tensors = read(tmp_path / "a.bin")
    assert sizes == [*(getattr(model.config, name) for name in SIZES), kind]
    assert np.array_equal(filters.T, processor.feature_extractor.mel_filters.astype(np.float32))
    letter = processor.tokenizer.convert_tokens_to_ids("b")
    assert len(words) == processor.tokenizer.eos_token_id and words[letter] == b"b"
    state = {ggml_name(name): value for name, value in model.state_dict().items() if name != "proj_out.weight"}
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        expected = value.numpy()
        assert np.abs(tensors[name].reshape(expected.shape) - expected).max() <= tolerance * np.abs(expected).max(), (
            name
        )
    assert tensors["encoder.conv1.bias"].shape == (32, 1)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.encoder.conv1.weight", "encoder.conv1.weight"),
        ("model.encoder.embed_positions.weight", "encoder.positional_embedding"),
        ("model.encoder.layers.0.self_attn.k_proj.weight", "encoder.blocks.0.attn.key.weight"),
        ("model.encoder.layers.3.final_layer_norm.bias", "encoder.blocks.3.mlp_ln.bias"),
        ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
        ("model.decoder.embed_tokens.weight", "decoder.token_embedding.weight"),
        ("model.decoder.layers.11.encoder_attn.out_proj.bias", "decoder.blocks.11.cross_attn.out.bias"),
        ("model.decoder.layers.11.encoder_attn_layer_norm.bias", "decoder.blocks.11.cross_attn_ln.bias"),
        ("model.decoder.layers.1.fc2.weight", "decoder.blocks.1.mlp.2.weight"),
        ("model.decoder.layer_norm.bias", "decoder.ln.bias"),
    ],
)
def test_tensors_have_the_names_of_openai(name, expected):
    assert ggml_name(name) == expected


@pytest.mark.unit
def test_a_vocabulary_is_bytes_also_where_they_are_no_text():
    if not TINY_EN.exists():
        pytest.skip(f"there is no {TINY_EN}; make models/whisper-tiny.en")
    words = list(vocabulary(load_whisper(str(TINY_EN))[1]))
    assert len(words) == 50256 and len(set(words)) == 50256
    assert {bytes([i]) for i in range(256)} <= set(words) and b" the" in words


@pytest.mark.unit
def test_matrices_that_do_not_fit_its_blocks_are_refused(tmp_path):
    with pytest.raises(UserError, match="16 columns, and whisper.cpp packs 32 at a time; take float16"):
        export_ggml(tiny_whisper(width=16), tiny_processor(), tmp_path / "a.bin", "q5_0")


@pytest.mark.unit
def test_a_vocabulary_that_whisper_cpp_does_not_know_is_refused(tmp_path):
    with pytest.raises(UserError, match="51864, 51865, 51866 tokens; this one has 80"):
        transcribe_ggml(tmp_path / "a.bin", [], vocab_size=80, max_new_tokens=9)


@pytest.mark.unit
@pytest.mark.parametrize(("seconds", "silence", "expected"), [(2.0, 5.0, 350), (2.001, 0.0, 101), (29.0, 5.0, 1500)])
def test_a_short_window_is_the_clip_and_the_silence_after_it(seconds, silence, expected):
    assert audio_positions(seconds, silence) == expected


@pytest.mark.integration
def test_whisper_cpp_writes_what_transformers_write(tmp_path, corpora):
    pytest.importorskip("pywhispercpp")
    if not TINY_EN.exists():
        pytest.skip(f"there is no {TINY_EN}; make models/whisper-tiny.en")
    model, processor = load_whisper(str(TINY_EN))
    clips = [file.read_bytes() for file in sorted((corpora / "children").rglob("*.flac"))[3:6]]
    corpus = rows(3).remove_columns("audio").add_column("audio", [{"bytes": clip, "path": None} for clip in clips])
    texts = transcribe(model, processor, corpus, max_new_tokens=50, num_beams=1)
    export_ggml(model, processor, tmp_path / "a.bin", "float16")
    found = transcribe_ggml(
        tmp_path / "a.bin", waveforms(corpus), vocab_size=model.config.vocab_size, max_new_tokens=50
    )
    assert found == texts
