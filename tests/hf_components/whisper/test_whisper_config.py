"""Configuration: rules, round trip, Auto classes."""

import json

import pytest
from tiny_whisper import tiny_base, tiny_moe
from transformers import AutoConfig, WhisperConfig

from hf_components.whisper import MoeWhisperConfig, MoeWhisperForConditionalGeneration

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts": 0}, r"`num_experts` must lie in \[1, inf\], got 0"),
        ({"experts_per_utterance": 9}, r"`experts_per_utterance` must lie in \[1, 4\], got 9"),
        ({"experts_per_utterance": 0}, r"`experts_per_utterance` must lie in \[1, 4\], got 0"),
        ({"router_layer": 0}, r"`router_layer` must lie in \[1, 4\], got 0"),
        ({"router_layer": 5}, r"`router_layer` must lie in \[1, 4\], got 5"),
        ({"lora_rank": 0}, r"`lora_rank` must lie in \[1, inf\], got 0"),
        ({"routing": "best"}, r"`routing` must be one of hard, top_k, soft, got 'best'"),
        ({"beta": 1.5}, r"`beta` must lie in \[0, 1\], got 1.5"),
        ({"num_experts": 3, "folded_weights": [1.0]}, "`folded_weights` must have one number for each of 3 experts"),
        ({"mixture": "mean"}, r"`mixture` must be one of weights, merge, logits, choose, got 'mean'"),
        ({"audio_context": "short"}, r"`audio_context` must be one of dynamic, full, got 'short'"),
        ({"min_audio_context": 3002}, r"`min_audio_context` must lie in \[2, 3000\], got 3002"),
        ({"router_temperature": 0}, r"`router_temperature` must be positive, got 0"),
        ({"router_noise_std": -1.0}, r"`router_noise_std` must not be negative, got -1"),
        (
            {"min_expert_usage_fraction": 0.25},
            r"`min_expert_usage_fraction` must lie in \[0, 1 / num_experts = 0.25\), got 0.25",
        ),
        ({"min_expert_usage_fraction": -0.1}, r"`min_expert_usage_fraction` must lie in .* got -0.1"),
        ({"target_modules": ["query"]}, r"`target_modules` must be some of q_proj, .*, got query"),
        ({"target_modules": []}, r"`target_modules` must be some of q_proj, .*, got none"),
        ({"encoder_layerdrop": 0.1}, r"LayerDrop would drop experts"),
    ],
    ids=lambda value: next(iter(value.items())).__repr__() if isinstance(value, dict) else "",
)
def test_rules_name_field_rule_and_value(fields, message):
    with pytest.raises(ValueError, match=message):
        MoeWhisperConfig(encoder_layers=4, **fields)


def test_defaults_depend_on_the_size():
    config = MoeWhisperConfig(encoder_layers=1, num_experts=1, max_source_positions=50)
    assert (config.router_layer, config.experts_per_utterance, config.min_audio_context) == (1, 1, 100)
    assert MoeWhisperConfig(encoder_layers=6).router_layer == 3


def test_round_trip(tmp_path):
    fields = {
        "num_experts": 5,
        "experts_per_utterance": 3,
        "routing": "top_k",
        "mixture": "logits",
        "router_layer": 2,
        "router_hidden_size": 16,
        "router_temperature": 0.7,
        "router_noise_std": 0.1,
        "min_expert_usage_fraction": 0.05,
        "lora_rank": 4,
        "lora_alpha": 3,
        "lora_dropout": 0.2,
        "target_modules": ["q_proj", "fc1"],
        "shared_expert": True,
        "beta": 0.5,
        "folded_weights": [0.0, 0.25, 0.0, 0.0, 0.0, 1.0],
        "audio_context": "dynamic",
        "min_audio_context": 300,
        "base_model_name_or_path": "openai/whisper-tiny",
    }
    config = MoeWhisperConfig(encoder_layers=4, **fields)
    config.save_pretrained(tmp_path)
    again = MoeWhisperConfig.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in fields} == fields
    own = MoeWhisperConfig().to_dict().keys() - WhisperConfig().to_dict().keys()
    assert own == fields.keys()  # every field of ours is in this test
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "whisper"


def test_auto_config(tmp_path):
    tiny_moe(num_experts=3).save_pretrained(tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert type(config).__name__ == "MoeWhisperConfig" and config.num_experts == 3


def test_base_checkpoint_gets_fresh_experts(tmp_path):
    """Loaded straight from stock weights: experts and router are initialised, not left as memory was."""
    tiny_base().save_pretrained(tmp_path)
    model = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path, num_experts=3)
    assert all(
        layer.lora_b.abs().max() == 0 and 0 < layer.lora_a.abs().max() <= layer.linear.in_features**-0.5
        for layer in model.routed_layers().values()
    )
    router = model.model.encoder.router
    assert router.mean.eq(0).all() and router.std.eq(1).all() and router.hidden.weight.abs().max() > 0


def test_experts_live_strictly_above_the_router():
    names = tiny_moe(router_layer=2).routed_layers()
    encoder = {name.split(".")[3] for name in names if ".encoder.layers." in name}
    assert encoder == {"2"} and any(".decoder." in name for name in names)
    assert not any(".encoder.layers." in name for name in tiny_moe(router_layer=3).routed_layers())
