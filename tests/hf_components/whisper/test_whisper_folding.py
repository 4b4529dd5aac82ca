"""A saved mixture is an adapted Whisper for whoever does not know mixtures, and the same mixture for this package."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_whisper import EXPERTS, WINDOW, noise, one_hot, tiny_base, tiny_moe, tokens
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.modeling_whisper import WhisperPreTrainedModel

from hf_components.moe import merge_experts
from hf_components.moe.merging import base_whisper
from hf_components.whisper import DynamicContextWhisper, MoeWhisperConfig, MoeWhisperForConditionalGeneration
from hf_components.whisper.modeling_moe_whisper import MoeWhisperModel

pytestmark = pytest.mark.unit

SHARED = pytest.mark.parametrize("shared_expert", [False, True], ids=["mean of all experts", "shared expert"])
CLOSE = {"atol": 2e-4, "rtol": 2e-4}


def logits(model, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(noise(2, WINDOW), labels=tokens(2, 6), **options).logits


def plain_part(shared_expert: bool) -> torch.Tensor:
    """Weights of the experts in what stock Whisper reads."""
    return torch.full((2, EXPERTS), 0.0 if shared_expert else 1 / EXPERTS)


@SHARED
def test_stock_whisper_reads_the_adapted_model(tmp_path, shared_expert):
    model = tiny_moe(shared_expert=shared_expert)
    model.save_pretrained(tmp_path)
    adapted = logits(model, expert_weights=plain_part(shared_expert))
    for stock in (WhisperForConditionalGeneration, DynamicContextWhisper):
        torch.testing.assert_close(logits(stock.from_pretrained(tmp_path)), adapted, **CLOSE)
    assert (adapted - logits(tiny_base())).abs().max() > 0.1


@SHARED
@pytest.mark.parametrize("mixture", ["weights", "logits"])
def test_the_mixture_comes_back(tmp_path, shared_expert, mixture):
    model = tiny_moe(shared_expert=shared_expert, mixture=mixture, routing="soft")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "first")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.folded_weights is None
    again = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path / "first")
    for options in ({}, {"expert_weights": one_hot(2, 2)}, {"expert_weights": 0.3 * one_hot(0, 2) + 0.1}):
        torch.testing.assert_close(logits(again, **options), logits(model, **options), **CLOSE)
    assert torch.equal(
        again.generate(noise(2, WINDOW), max_new_tokens=8), model.generate(noise(2, WINDOW), max_new_tokens=8)
    )
    again.save_pretrained(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@SHARED
def test_experts_of_a_reloaded_mixture_are_those_that_were_saved(tmp_path, shared_expert):
    model = tiny_moe(shared_expert=shared_expert)
    model.save_pretrained(tmp_path)
    again = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again.merge_expert(1)), logits(model.merge_expert(1)), **CLOSE)
    weights = [0.5, 0.25, 0.25, 0.0]
    torch.testing.assert_close(logits(merge_experts(again, weights)), logits(merge_experts(model, weights)), **CLOSE)
    torch.testing.assert_close(logits(base_whisper(again)), logits(tiny_base()), **CLOSE)
    again.save_experts(tmp_path / "experts")
    from_adapters = MoeWhisperForConditionalGeneration.from_experts(tiny_base(), tmp_path / "experts")
    options = {"expert_weights": one_hot(1, 2)}
    torch.testing.assert_close(logits(from_adapters, **options), logits(model, **options), **CLOSE)


@SHARED
def test_training_goes_on_from_the_base_weights(tmp_path, shared_expert):
    model = tiny_moe(shared_expert=shared_expert)
    model.save_pretrained(tmp_path)
    again = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path)
    again.train_only(experts=True, router=True)
    assert again.config.folded_weights is None
    torch.testing.assert_close(logits(again), logits(model), **CLOSE)
    name = "model.decoder.layers.0.fc1.linear.weight"
    torch.testing.assert_close(again.state_dict()[name], model.state_dict()[name], atol=1e-5, rtol=1e-5)
    loss = again.train()(noise(2, WINDOW), labels=tokens(2, 6)).loss
    loss.backward()
    layer = again.get_submodule("model.decoder.layers.0.fc1")
    assert layer.lora_b.grad[-1].abs().max() > 0 or not shared_expert  # the shared expert learns again


def test_a_checkpoint_of_before_loads(tmp_path):
    """Files written before experts were folded name no `folded_weights`, and their plain weights are the base's."""
    model = tiny_moe(shared_expert=True)
    WhisperPreTrainedModel.save_pretrained(model, tmp_path)
    again = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.folded_weights is None
    torch.testing.assert_close(logits(again), logits(model))


def test_auto_classes_know_the_mixture_and_stock_whisper(tmp_path):
    tiny_moe(shared_expert=True).save_pretrained(tmp_path / "mixture")
    tiny_base().save_pretrained(tmp_path / "stock")
    assert type(AutoConfig.from_pretrained(tmp_path / "mixture")) is MoeWhisperConfig
    assert type(AutoConfig.from_pretrained(tmp_path / "stock")) is WhisperConfig
    assert type(AutoConfig.for_model("whisper", d_model=8)) is WhisperConfig
    for auto, mixture, stock in (
        (AutoModelForSpeechSeq2Seq, MoeWhisperForConditionalGeneration, WhisperForConditionalGeneration),
        (AutoModel, MoeWhisperModel, None),
    ):
        for trusted in (None, False, True):  # the package's own class serves, whatever the file brings along
            loaded = auto.from_pretrained(tmp_path / "mixture", trust_remote_code=trusted)
            assert type(loaded) is mixture
        assert stock is None or type(auto.from_pretrained(tmp_path / "stock")) is stock


@SHARED
def test_beta_is_between_the_choice_and_the_plain_model(shared_expert):
    model = tiny_moe(beta=0.25, shared_expert=shared_expert)
    mean = logits(model, expert_weights=plain_part(shared_expert))
    chosen = torch.nn.functional.one_hot(model.route(noise(2, WINDOW)).argmax(-1), EXPERTS).float()
    mixed = 0.25 * chosen + 0.75 * plain_part(shared_expert)
    torch.testing.assert_close(logits(model), logits(model, expert_weights=mixed))
    with model.override(mixture="merge"):
        torch.testing.assert_close(logits(model), mean)
    with model.override(beta=0.0):
        torch.testing.assert_close(logits(model), mean)
