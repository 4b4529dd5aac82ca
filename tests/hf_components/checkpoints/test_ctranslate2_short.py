"""Exports that hear clips at their own length write what the original writes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_speech import rows, tiny_processor, tiny_whisper

from hf_components.asr.transcriber import Transcriber, transcribe
from hf_components.checkpoints import ctranslate2_engine
from hf_components.checkpoints.ctranslate2_engine import EXTRA, ExportedWhisper, with_bias
from hf_components.checkpoints.ctranslate2_export import export_whisper
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import waveforms
from hf_components.whisper.silence import context_bias

pytestmark = pytest.mark.unit
LEAST = 100


@pytest.fixture(scope="module")
def original():
    model = tiny_whisper()
    model.set_audio_context("dynamic", LEAST)
    return model


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_whisper(
        original, tiny_processor(), folder / "model", "float32", audio_context="dynamic", min_audio_context=LEAST
    )
    return folder / "model"


def test_the_files(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.bin", "config.json", "vocabulary.json", "tokenizer.json", "encoder"}
    settings = json.loads((folder / "encoder" / "config.json").read_text())
    assert (settings["audio_context"], settings["min_audio_context"]) == ("dynamic", LEAST)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_it_writes_what_the_original_writes(original, folder, batch_size):
    corpus = rows(6)
    options = {"batch_size": batch_size, "max_new_tokens": 9, "num_beams": 1}
    texts = transcribe(original, tiny_processor(), corpus, **options)
    exported = ExportedWhisper(folder)
    assert transcribe(exported, exported.processor, corpus, **options) == texts
    assert len(set(texts)) > 1
    assert set(exported.seconds) == {"encoder", "decoder"}


def test_the_silence_counts_as_much_as_in_the_original(original, folder, monkeypatch):
    """The log probabilities of CTranslate2 are those of PyTorch, and others without the bias."""
    exported = ExportedWhisper(folder)
    features = log_mel(tiny_processor().feature_extractor, waveforms(rows(1)))
    tokens = torch.tensor([tiny_processor().tokenizer.prefix_tokens])
    with torch.no_grad():
        features_seen = original.prepare_audio_context(features)
        wanted = original(features_seen, decoder_input_ids=tokens).logits[0, -1].log_softmax(-1)
    found = log_probabilities(exported, features, tokens)
    known = found > -1e4  # others are suppressed
    assert known.sum() > 10
    gaps = (found - wanted)[known]
    assert (gaps - gaps.mean()).abs().max() < 1e-3
    monkeypatch.setattr(ctranslate2_engine, "context_bias", lambda states, config: None)
    gaps = (log_probabilities(exported, features, tokens) - wanted)[known]
    assert (gaps - gaps.mean()).abs().max() > 1e-2


def log_probabilities(exported, features, tokens):
    result = exported.decoder.generate(
        exported.to_storage(exported.encode(features).numpy()),
        tokens.tolist(),
        beam_size=1,
        max_length=2 * tokens.shape[1] + 2,
        return_logits_vocab=True,
    )[0]
    return torch.from_numpy(np.array(result.logits[0][0]).copy())


def test_states_carry_the_bias(original):
    states = torch.randn(2, 40, original.config.d_model)
    extended = with_bias(states, original.config)
    assert torch.equal(extended[..., :-EXTRA], states)
    assert torch.equal(extended[0, :, -EXTRA], context_bias(states, original.config)[0, 0, 0])
    assert not extended[..., -EXTRA + 1 :].any()
    assert not with_bias(torch.randn(1, 1500, 8), original.config)[..., -EXTRA:].any()


def test_int8_stores_a_small_encoder(original, tmp_path):
    options = {"audio_context": "dynamic", "min_audio_context": LEAST}
    export_whisper(original, tiny_processor(), tmp_path / "model", "int8", **options)
    weights = load_file(tmp_path / "model" / "encoder" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    exported = ExportedWhisper(tmp_path / "model")
    assert exported.encoder.dtype == torch.float32 and original.dtype == torch.float32
    assert len(transcribe(exported, exported.processor, rows(2), max_new_tokens=3)) == 2


def test_the_engine_of_a_transcriber(folder, original, tmp_path):
    transcriber = Transcriber.from_pretrained(folder, engine="ctranslate2", num_beams=1, max_new_tokens=5)
    found = transcriber.transcribe_corpus(rows(3))
    assert all(one.problem is None for one in found)
    assert set(transcriber.seconds_by_part()) == {"audio", "features", "encoder", "decoder"}
    of_torch = Transcriber(original, tiny_processor(), num_beams=1, max_new_tokens=5)
    assert [one.text for one in of_torch.transcribe_corpus(rows(3))] == [one.text for one in found]
    assert set(of_torch.seconds_by_part()) == {"audio", "features", "model"}
    for options, message in (
        ({}, "is an export for CTranslate2; transcribe with engine ctranslate2"),
        ({"engine": "onnx"}, "engine must be transformers or ctranslate2, got 'onnx'"),
        ({"engine": "ctranslate2", "adapter": "x"}, "adapter is a part of an export"),
        ({"engine": "ctranslate2", "audio_context": "full"}, "audio_context is a part of an export"),
    ):
        with pytest.raises(UserError, match=message):
            Transcriber.from_pretrained(folder, **options)
    sure = Transcriber.from_pretrained(folder, engine="ctranslate2", max_new_tokens=5, word_confidences=True)
    with pytest.raises(UserError, match="does not tell the confidence of its words"):
        sure.transcribe_corpus(rows(3))
    with pytest.raises(UserError, match="is no export that engine ctranslate2 runs"):
        Transcriber.from_pretrained(tmp_path, engine="ctranslate2")
    (tmp_path / "encoder").symlink_to(folder / "encoder")
    (tmp_path / "model.bin").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged: .*; export it again"):
        Transcriber.from_pretrained(tmp_path, engine="ctranslate2")
