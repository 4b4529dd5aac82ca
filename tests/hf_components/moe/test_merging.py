"""Merged plain Whispers against the mixture, its experts and its base."""

import pytest
import torch
from tiny_speech import EXPERTS, rows, tiny_moe, tiny_processor, tiny_whisper
from transformers import WhisperForConditionalGeneration

from hf_components.moe.merging import base_whisper, merge_experts, score_plain
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit
WEIGHTS = [0.5, 0.2, 0.3]


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return log_mel(tiny_processor().feature_extractor, waveforms(rows(2)), 3000)


def logits(model, features, **options) -> torch.Tensor:
    start = torch.full((len(features), 3), model.config.decoder_start_token_id)
    with torch.no_grad():
        return model(features, decoder_input_ids=start, **options).logits


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("weights", [WEIGHTS, [1, 0, 0], [0, 0.5, 0.5]], ids=str)
def test_computes_what_the_mixture_computes_for_these_weights(features, weights, shared):
    model = tiny_moe(shared_expert=shared)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = merge_experts(model, weights)
    expected = logits(model, features, expert_weights=torch.tensor([weights]), fit_audio_context=False)
    torch.testing.assert_close(logits(plain, features), expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert plain.audio_context == "full" and not plain.training


@pytest.mark.parametrize("shared", [True, False])
def test_one_expert_is_merge_expert(shared):
    model = tiny_moe(shared_expert=shared)
    for expert in range(EXPERTS):
        merged = merge_experts(model, [float(i == expert) for i in range(EXPERTS)]).state_dict()
        reference = model.merge_expert(expert).state_dict()
        assert merged.keys() == reference.keys()
        for name, value in reference.items():
            torch.testing.assert_close(merged[name], value, msg=name)


def test_products_are_averaged_and_not_factors():
    model = tiny_moe()
    merged = merge_experts(model, WEIGHTS)
    name, layer = next(iter(model.routed_layers().items()))
    a, b = layer.lora_a.detach(), layer.lora_b.detach()
    mean = sum(weight * b[i] @ a[i] for i, weight in enumerate(WEIGHTS)) + b[EXPERTS] @ a[EXPERTS]
    torch.testing.assert_close(merged.get_submodule(name).weight, layer.plain_weight + layer.scaling * mean)


def test_without_experts_it_is_the_base():
    base = base_whisper(tiny_moe()).state_dict()
    assert all(torch.equal(base[name], value) for name, value in tiny_whisper().state_dict().items())


def test_saved_it_is_a_stock_whisper(features, tmp_path):
    plain = merge_experts(tiny_moe(), WEIGHTS)
    plain.save_pretrained(tmp_path)
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(logits(stock, features), logits(plain, features))
    assert torch.equal(stock.generate(features, max_new_tokens=6), plain.generate(features, max_new_tokens=6))
    assert "num_experts" not in stock.config.to_dict() and "auto_map" not in stock.config.to_dict()


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.2, 0.2], [float("nan"), 0.5, 0.5]], ids=str)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(UserError, match="3 numbers of at least 0 that add up to 1, one per expert, got"):
        merge_experts(tiny_moe(), weights)


def test_plain_whispers_are_judged_beside_mixture_and_base():
    model, corpus = tiny_moe(), rows(5)
    plain = {"before": merge_experts(model, [1, 0, 0]), "after": merge_experts(model, WEIGHTS)}
    result = score_plain(
        plain, model, tiny_processor(), corpus, split="dev", batch_size=3, max_new_tokens=6, num_bootstrap=10, seed=0
    )
    assert list(result["rows"]) == ["zero_shot", "moe", "before", "after"]
    assert [row["audio_context"] for row in result["rows"].values()] == ["30 s", ">= 0.5 s", "30 s", "30 s"]
    pairs = [(line["a"], line["b"]) for line in result["differences"]]
    assert pairs == [
        ("zero_shot", "moe"),
        ("zero_shot", "before"),
        ("zero_shot", "after"),
        ("moe", "before"),
        ("moe", "after"),
        ("before", "after"),
    ]
    for line in result["differences"]:
        assert line["difference"] == pytest.approx(result["rows"][line["b"]]["wer"] - result["rows"][line["a"]]["wer"])
    assert result["sample"] == {"split": "dev", "utterances": 5, "speakers": 4, "seed": 0}
