"""`mixture="choose"`: of the texts of all experts and the plain model, the one with the least risk."""

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from tiny_whisper import END, EXPERTS, WINDOW, noise, tiny_moe
from transformers import GenerationMixin

from hf_components.whisper import choosing

pytestmark = pytest.mark.unit

ROWS = 4


def text_of(sequence: torch.Tensor) -> list[int]:
    """Tokens up to the first end token, and with it if there is one."""
    tokens = sequence.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def log_probability(model, features, weights, text: list[int]) -> float:
    written = model.generate(features, max_new_tokens=1, return_dict_in_generate=True, expert_weights=weights[None])
    prompt = [token for token in written["sequences"][0].tolist() if token > END]
    ids = torch.tensor([[*prompt, *text]])
    with torch.no_grad():
        logits = model(features, decoder_input_ids=ids[:, :-1], expert_weights=weights[None]).logits
    return float(logits.log_softmax(-1).gather(2, ids[:, 1:, None])[:, len(prompt) - 1 :].sum())


def lists_of(model, clip, weights, beams: int) -> list[list[int]]:
    """The texts that transformers' own beam search finds with these weights."""
    prompt = model.generate(clip, max_new_tokens=1, num_beams=1, return_dict_in_generate=True)["sequences"]
    with torch.no_grad():
        heard = model.model.encoder(model.fit_inputs(clip, None)[0], expert_weights=weights[None])
    options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": 8}
    found = GenerationMixin.generate(model, encoder_outputs=heard, decoder_input_ids=prompt[:, :-1], **options)
    return [text_of(text[prompt.shape[1] - 1 :]) for text in found]


@pytest.mark.parametrize("sure", [0.0, 2.0], ids=["the plain model is sure", "nobody is sure"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("shared_expert", [False, True])
def test_of_all_texts_the_one_with_the_least_risk_is_taken(shared_expert, beams, sure, monkeypatch):
    monkeypatch.setattr(choosing, "SURE", sure)
    model = tiny_moe(shared_expert=shared_expert, mixture="choose")
    features = noise(ROWS, WINDOW, seed=3)
    chosen = model.generate(features, max_new_tokens=8, num_beams=beams)
    assert chosen.shape[0] == ROWS
    assert (model.utterances_chosen, model.experts_asked) == (ROWS, ROWS if sure else 0)
    plain = torch.tensor([model.config.plain_weights])
    judges = torch.cat([torch.eye(EXPERTS), plain]) if sure else plain
    is_other = 0
    for row in range(ROWS):
        clip = features[row : row + 1]
        texts = {tuple(text) for weights in judges for text in lists_of(model, clip, weights, beams)}
        texts = sorted(texts)
        shares = torch.tensor(
            [[log_probability(model, clip, judge, list(text)) for judge in judges] for text in texts]
        )
        shares = shares.exp().mean(1)
        shares = (shares / shares.sum()).tolist()
        risks = [
            sum(share * Levenshtein.distance(text, other) for share, other in zip(shares, texts, strict=True))
            for text in texts
        ]
        got = tuple(text_of(chosen[row]))
        assert risks[texts.index(got)] == pytest.approx(min(risks), abs=1e-4)
        is_other += got != tuple(text_of(model.generate(clip, max_new_tokens=8, expert_weights=plain)[0]))
    assert is_other or (not sure and beams == 1)  # it is not always what the plain model wrote


def test_a_batch_chooses_as_each_clip_alone():
    model = tiny_moe(mixture="choose")
    features = noise(ROWS, WINDOW)
    together = model.generate(features, max_new_tokens=8)
    alone = [model.generate(features[row : row + 1], max_new_tokens=8)[0] for row in range(ROWS)]
    assert [text_of(row) for row in together] == [text_of(row) for row in alone]


def test_forward_is_that_of_the_plain_model():
    model = tiny_moe(mixture="choose")
    features, ids = noise(2, WINDOW), torch.tensor([[1, 2, 3]] * 2)
    with torch.no_grad(), model.override(mixture="merge"):
        mean = model(features, decoder_input_ids=ids).logits
    with torch.no_grad():
        torch.testing.assert_close(model(features, decoder_input_ids=ids).logits, mean)


@pytest.mark.parametrize(
    "options",
    [{"return_dict_in_generate": True}, {"do_sample": True, "top_k": 1}, {"num_return_sequences": 2, "num_beams": 2}],
)
def test_what_cannot_be_chosen_is_transcribed_by_the_plain_model(options):
    model = tiny_moe(mixture="choose")
    features = noise(2, WINDOW)
    with model.override(mixture="merge"):
        mean = model.generate(features, max_new_tokens=6, **options)
    found = model.generate(features, max_new_tokens=6, **options)
    sequences = [value["sequences"] if isinstance(value, dict) else value for value in (found, mean)]
    assert torch.equal(*sequences)


def test_the_encoder_below_the_experts_runs_once(monkeypatch):
    model = tiny_moe(mixture="choose")
    rows = []
    embed = model.model.encoder.embed_frames
    monkeypatch.setattr(
        model.model.encoder, "embed_frames", lambda features: rows.append(len(features)) or embed(features)
    )
    model.generate(noise(ROWS, WINDOW), max_new_tokens=4)
    assert rows == [ROWS]
