"""`mixture="choose"`: of the texts of all experts and the plain model, the one that all of them find most probable."""

import pytest
import torch
from tiny_whisper import END, EXPERTS, WINDOW, noise, tiny_moe

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


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("shared_expert", [False, True])
def test_the_text_that_all_judges_like_most_is_taken(shared_expert, options):
    model = tiny_moe(shared_expert=shared_expert, mixture="choose")
    features = noise(ROWS, WINDOW, seed=3)
    chosen = model.generate(features, max_new_tokens=8, **options)
    assert chosen.shape[0] == ROWS
    judges = torch.cat([torch.eye(EXPERTS), torch.tensor([model.config.plain_weights])])
    is_other = 0
    for row in range(ROWS):
        clip = features[row : row + 1]
        written = [
            text_of(model.generate(clip, max_new_tokens=8, expert_weights=weights[None], **options)[0])
            for weights in judges
        ]
        scores = [sum(log_probability(model, clip, judge, text) for judge in judges) for text in written]
        best = max(range(len(scores)), key=scores.__getitem__)
        assert text_of(chosen[row]) == written[best]
        is_other += written[best] != written[-1]
    assert is_other  # the choice is not always the plain model's own text


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
