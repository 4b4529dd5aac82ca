"""Exports read back by the importer and run by CTranslate2."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from safetensors.torch import load_file, save_file
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper
from transformers import WhisperFeatureExtractor

from hf_components.asr.transcriber import transcribe
from hf_components.checkpoints.ctranslate2_export import export_whisper, transcribe_exported
from hf_components.checkpoints.ctranslate2_import import import_whisper
from hf_components.checkpoints.loading import load_whisper, save_processor
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import load_corpus, sample_rows, waveforms
from recipes import prepare_corpus

TINY_EN = ROOT / "models" / "whisper-tiny.en"


@pytest.mark.unit
def test_the_importer_reads_back_every_weight_and_setting(tmp_path):
    model, processor = tiny_whisper(), tiny_processor()
    export_whisper(model, processor, tmp_path / "model", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "model.bin",
        "config.json",
        "vocabulary.json",
        "tokenizer.json",
        "preprocessor_config.json",
    }
    back, its_processor = import_whisper(tmp_path / "model")
    state = back.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    for name in (
        "suppress_tokens",
        "decoder_start_token_id",
        "eos_token_id",
        "no_timestamps_token_id",
        "is_multilingual",
    ):
        assert getattr(back.generation_config, name) == getattr(model.generation_config, name), name
    assert its_processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    vocabulary = json.loads((tmp_path / "model" / "vocabulary.json").read_text())
    assert vocabulary == processor.tokenizer.convert_ids_to_tokens(range(model.config.vocab_size))
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path / "model")  # of preprocessor_config.json
    assert extractor.to_dict() == processor.feature_extractor.to_dict()


@pytest.mark.unit
@pytest.mark.parametrize(("quantization", "tolerance"), [("float16", 1e-3), ("int8", 0.01)])
def test_smaller_types_stay_close(tmp_path, quantization, tolerance):
    model = tiny_whisper()
    export_whisper(model, tiny_processor(), tmp_path / "model", quantization)
    state = import_whisper(tmp_path / "model")[0].state_dict()
    for name, value in model.state_dict().items():
        assert (state[name] - value).abs().max() <= tolerance * value.abs().max(), name


@pytest.mark.unit
def test_ctranslate2_writes_what_pytorch_writes(tmp_path):
    model, processor, corpus = tiny_whisper(), tiny_processor(), rows(6)
    export_whisper(model, processor, tmp_path / "model", "float32")
    features = log_mel(processor.feature_extractor, waveforms(corpus), 3000)
    texts = transcribe(model, processor, corpus, max_new_tokens=9)
    assert transcribe_exported(tmp_path / "model", processor, features, 9) == texts
    assert len(set(texts)) > 1 and max(map(len, texts)) == 9  # it hears its input, and stops where it is told to


@pytest.mark.unit
def test_an_interrupted_export_is_made_again(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.bin").write_bytes(b"half")
    export_whisper(tiny_whisper(), tiny_processor(), tmp_path / "export", "float32")
    assert (tmp_path / "export" / "model.bin").stat().st_size > 4


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "underheard\[export\]"'):
        export_whisper(tiny_whisper(), tiny_processor(), tmp_path / "model", "float32")


@pytest.mark.slow
@pytest.mark.skipif(not TINY_EN.exists(), reason=f"there is no {TINY_EN}; make models/whisper-tiny.en imports it")
def test_tiny_en_goes_there_and_back_and_transcribes_real_speech(tmp_path, corpora):
    assert importlib.util.find_spec("ctranslate2")
    model, processor = load_whisper(str(TINY_EN))
    export_whisper(model, processor, tmp_path / "model", "float32")
    state = import_whisper(tmp_path / "model")[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    prepare_corpus.main(
        [
            "--data_dir",
            str(corpora / "speakers"),
            "--output_dir",
            str(tmp_path / "corpus"),
            "--num_proc",
            "1",
            "--max_samples",
            "12",
        ]
    )
    corpus = sample_rows(load_corpus(tmp_path / "corpus", "dev"), 12, 0)
    features = log_mel(processor.feature_extractor, waveforms(corpus), 3000)
    texts = transcribe(model, processor, corpus, max_new_tokens=100, num_beams=1)
    exported = transcribe_exported(tmp_path / "model", processor, features, 100)
    assert sum(a == b for a, b in zip(texts, exported, strict=True)) >= len(corpus) - 1  # ties may fall either way


STRANGER = """
import sys
from ctranslate2.converters import TransformersConverter
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

folder = sys.argv[1]
TransformersConverter(f"{folder}/mixture", copy_files=["tokenizer.json"]).convert(f"{folder}/exported")
stock = WhisperForConditionalGeneration.from_pretrained(f"{folder}/mixture")
features = load_file(f"{folder}/features.safetensors")["features"]
save_file({"tokens": stock.generate(features, max_new_tokens=9)}, f"{folder}/tokens.safetensors")
assert not any(name.startswith("hf_components") for name in sys.modules)
"""


@pytest.mark.unit
@pytest.mark.parametrize("shared_expert", [True, False], ids=["shared expert", "mean of all experts"])
def test_whoever_knows_no_mixture_reads_the_adapted_model(tmp_path, shared_expert):
    """Stock transformers and CTranslate2's converter, where this package is not imported."""
    moe, processor, corpus = tiny_moe(shared_expert=shared_expert, audio_context="full"), tiny_processor(), rows(6)
    moe.save_pretrained(tmp_path / "mixture")
    save_processor(processor, tmp_path / "mixture")
    features = log_mel(processor.feature_extractor, waveforms(corpus), 3000)
    save_file({"features": features}, tmp_path / "features.safetensors")
    command = [sys.executable, "-c", STRANGER, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path, capture_output=True)
    weights = torch.full((6, moe.config.num_experts), 0.0 if shared_expert else 1 / moe.config.num_experts)
    texts = transcribe(moe, processor, corpus, max_new_tokens=9, expert_weights=weights)
    assert transcribe_exported(tmp_path / "exported", processor, features, 9) == texts
    tokens = load_file(tmp_path / "tokens.safetensors")["tokens"]
    assert [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)] == texts
    assert texts != transcribe(tiny_whisper(), processor, corpus, max_new_tokens=9)
