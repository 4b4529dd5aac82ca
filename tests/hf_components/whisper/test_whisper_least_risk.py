"""Of the texts of a beam search the one with the least risk."""

import random

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from tiny_whisper import END, WINDOW, noise, tiny_base, tiny_moe
from transformers import GenerationMixin

from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.least_risk import choose_least_risk, edit_distance

pytestmark = pytest.mark.unit

BEAMS = {"num_beams": 4, "max_new_tokens": 8}


def test_the_edit_distance_is_that_of_levenshtein():
    draw = random.Random(0)
    for _ in range(200):
        a, b = ([draw.randrange(4) for _ in range(draw.randrange(9))] for _ in range(2))
        assert edit_distance(a, b) == Levenshtein.distance(a, b)


@pytest.mark.parametrize(
    ("texts", "shares", "expected"),
    [
        ([[1, 2, 3], [4, 5, 6], [4, 5, 7]], [0.4, 0.35, 0.25], 1),  # two that are alike outweigh a more probable one
        ([[1, 2, 3], [4, 5, 6], [4, 5, 7]], [0.6, 0.25, 0.15], 0),  # but not one with more than half
        ([[1], [2]], [0.5, 0.5], 0),
        ([[7, 7]], [1.0], 0),
        ([[1, 2, 3], [9, 2, 3], [1, 8, 3], [1, 2, 7]], [0.19, 0.27, 0.27, 0.27], 0),  # between the others
    ],
)
def test_the_text_with_the_least_mean_distance_is_chosen(texts, shares, expected):
    log_probs = torch.tensor(shares).log() - 5.0  # a constant changes nothing
    assert choose_least_risk(texts, log_probs) == expected


@pytest.mark.parametrize("make", [tiny_base, tiny_moe])
def test_a_beam_search_returns_it(make):
    model = make()
    if make is tiny_base:
        model, stock = DynamicContextWhisper(model.config).eval(), model
        model.load_state_dict(stock.state_dict())
        model.generation_config = stock.generation_config
    features = noise(6, WINDOW, seed=1)
    usual = model.generate(features, **BEAMS)
    chosen = model.generate(features, least_risk=True, **BEAMS)
    prompt = model.generate(features, max_new_tokens=1, return_dict_in_generate=True)["sequences"][:, :-1]
    with torch.no_grad():
        heard = model.model.encoder(features)
    lists = GenerationMixin.generate(
        model, encoder_outputs=heard, decoder_input_ids=prompt, num_return_sequences=4, **BEAMS
    ).unflatten(0, (6, 4))
    differing = 0
    for row in range(6):
        texts = [_until_end(text[prompt.shape[1] :].tolist()) for text in lists[row]]
        log_probs = torch.tensor([_log_probability(model, features[row], prompt[row], text) for text in texts])
        expected = texts[choose_least_risk(texts, log_probs)]
        assert _until_end(chosen[row].tolist()) == expected
        differing += expected != _until_end(usual[row].tolist())
    assert differing


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def _log_probability(model, features, prompt, text: list[int]) -> float:
    ids = torch.cat([prompt, torch.tensor(text)])[None]
    with torch.no_grad():
        logits = model(features[None], decoder_input_ids=ids[:, :-1]).logits
    return float(logits.log_softmax(-1).gather(2, ids[:, 1:, None])[:, len(prompt) - 1 :].sum())


def test_it_is_off_by_default_and_without_beams():
    model = tiny_moe()
    features = noise(3, WINDOW)
    assert torch.equal(model.generate(features, **BEAMS), model.generate(features, least_risk=False, **BEAMS))
    greedy = {"num_beams": 1, "max_new_tokens": 8}
    assert torch.equal(model.generate(features, **greedy), model.generate(features, least_risk=True, **greedy))
    model.generation_config.least_risk = True
    assert torch.equal(model.generate(features, **BEAMS), model.generate(features, least_risk=True, **BEAMS))


def test_what_is_returned_beside_the_text_belongs_to_it():
    model = tiny_moe()
    features = noise(4, WINDOW, seed=1)
    options = {"return_dict_in_generate": True, "output_scores": True, "least_risk": True, **BEAMS}
    found = model.generate(features, **options)
    texts = model.generate(features, least_risk=True, **BEAMS)
    assert found["sequences"].shape[0] == 4 and len(found["sequences_scores"]) == 4
    assert all(
        _until_end([token for token in row if token <= END]) == _until_end(text)
        for row, text in zip(found["sequences"].tolist(), texts.tolist(), strict=True)
    )
