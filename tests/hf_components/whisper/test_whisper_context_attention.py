"""The decoder's attention to the encoder, whose keys and values the beams of an utterance share."""

import pytest
import torch
from tiny_whisper import WINDOW, noise, tiny_base, tiny_moe
from transformers import DynamicCache, EncoderDecoderCache

from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.context_attention import BeamCache

pytestmark = pytest.mark.unit

BEAMS = {"num_beams": 4, "max_new_tokens": 8}
EVERYTHING = {
    "return_dict_in_generate": True,
    "output_attentions": True,
    "output_scores": True,
    "num_return_sequences": 4,
}


def plain() -> DynamicContextWhisper:
    stock = tiny_base()
    model = DynamicContextWhisper(stock.config).eval()
    model.load_state_dict(stock.state_dict())
    model.generation_config = stock.generation_config
    return model


def experts_with_weights() -> torch.nn.Module:
    model = tiny_moe()
    model.set_fields(mixture="weights", routing="top_k", experts_per_utterance=2)
    return model


def experts_with_logits() -> torch.nn.Module:
    model = tiny_moe()
    model.set_fields(mixture="logits", routing="top_k", experts_per_utterance=2)
    return model


@pytest.fixture
def without_sharing(monkeypatch):
    def generate(model, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(BeamCache, "of", lambda cache, beams: None)
            return model.generate(*args, **kwargs)

    return generate


@pytest.mark.parametrize("options", [{}, {"least_risk": True}, {"num_return_sequences": 3}, {"use_cache": False}])
@pytest.mark.parametrize("make", [plain, experts_with_weights, experts_with_logits])
def test_beams_that_share_find_the_same_texts(make, options, without_sharing):
    model = make()
    features = noise(3, WINDOW)
    asked = {**BEAMS, **options}
    assert torch.equal(model.generate(features, **asked), without_sharing(model, features, **asked))


@pytest.mark.parametrize("make", [plain, experts_with_weights])
def test_what_is_returned_beside_the_texts_is_the_same(make, without_sharing):
    model = make()
    features = noise(2, WINDOW)
    found = model.generate(features, **BEAMS, **EVERYTHING)
    stock = without_sharing(model, features, **BEAMS, **EVERYTHING)
    torch.testing.assert_close(found["sequences_scores"], stock["sequences_scores"])
    for step, expected in zip(found["cross_attentions"], stock["cross_attentions"], strict=True):
        torch.testing.assert_close(step, expected)
    layers = zip(found["past_key_values"], stock["past_key_values"], strict=True)
    for layer, expected in layers:
        torch.testing.assert_close(layer, expected)


@pytest.mark.parametrize("make", [plain, experts_with_weights])
def test_an_utterance_has_one_copy_of_its_keys_and_values(make, monkeypatch):
    model = make()
    seen = []
    update = DynamicCache.update

    def watched(cache, keys, values, layer, *args, **kwargs):
        seen.append(keys.shape)
        return update(cache, keys, values, layer, *args, **kwargs)

    monkeypatch.setattr(DynamicCache, "update", watched)
    model.generate(noise(3, WINDOW), **BEAMS)
    positions = model.config.max_source_positions
    assert {shape[0] for shape in seen if shape[2] == positions} == {3}
    assert {shape[0] for shape in seen if shape[2] != positions} == {12}  # what the beams write


def test_a_cache_that_is_filled_or_of_fixed_size_is_left_alone():
    assert BeamCache.of(None, 4) is None
    empty = EncoderDecoderCache(DynamicCache(), DynamicCache())
    assert BeamCache.of(empty, 4).beams == 4
    empty.cross_attention_cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    assert BeamCache.of(empty, 4) is None
