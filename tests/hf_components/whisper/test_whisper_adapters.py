"""Experts from PEFT adapters of any shape, and adapters that must be refused."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_whisper import EXPERTS, WINDOW, noise, one_hot, tiny_base, tokens

from hf_components.whisper import MoeWhisperForConditionalGeneration

pytestmark = pytest.mark.unit
# the tiny encoder has 3 layers, the router reads after 1
ABOVE = r"model\.(encoder\.layers\.[12]|decoder\.layers\.\d)\..*"


def peft_adapter(folder, seed: int, **config):
    """A trained-looking adapter, written by PEFT itself."""
    torch.manual_seed(seed)
    model = get_peft_model(tiny_base(), LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **config}))
    model.save_pretrained(folder)
    return folder


def test_adapters_of_different_ranks_scalings_and_modules(tmp_path):
    recipes = [
        {"r": 2, "lora_alpha": 16, "target_modules": ABOVE + "q_proj"},
        {"r": 5, "lora_alpha": 5, "target_modules": ABOVE + "(q_proj|v_proj|fc2)"},
        {"r": 3, "lora_alpha": 9, "use_rslora": True, "target_modules": r".*decoder.*encoder_attn\.(k_proj|out_proj)"},
        {"r": 4, "lora_alpha": 1, "target_modules": ABOVE + "fc1"},
    ]
    folders = [peft_adapter(tmp_path / f"adapter_{i}", i, **recipe) for i, recipe in enumerate(recipes)]
    model = MoeWhisperForConditionalGeneration.from_experts(tiny_base(), folders)
    assert model.config.lora_rank == 5 and model.config.num_experts == EXPERTS
    features, labels = noise(2, WINDOW), tokens(2, 5)
    for expert, folder in enumerate(folders):
        reference = PeftModel.from_pretrained(tiny_base(), folder).eval()
        with torch.no_grad():
            theirs = reference(input_features=features, labels=labels).logits
            assert (theirs - tiny_base()(features, labels=labels).logits).abs().max() > 0.01
            ours = model(features, labels=labels, expert_weights=one_hot(expert, 2)).logits
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_adapter_below_the_router_is_refused(tmp_path):
    folder = peft_adapter(tmp_path, 0, target_modules=["q_proj"])  # every layer, the first one included
    with pytest.raises(ValueError, match=r"above encoder layer 1.*model\.encoder\.layers\.0\.self_attn\.q_proj"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), [folder])


def test_adapter_on_the_decoder_alone_works_at_the_last_layer(tmp_path):
    folder = peft_adapter(tmp_path, 0, target_modules=r"model\.decoder.*fc1")
    model = MoeWhisperForConditionalGeneration.from_experts(tiny_base(), [folder], router_layer=3)
    assert all(".decoder." in name for name in model.routed_layers())
    assert model.generate(noise(1, WINDOW), max_new_tokens=4).shape == (1, 4)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"modules_to_save": ["layer_norm"]},
        {"rank_pattern": {"fc1": 2}},
        {"lora_bias": True},
    ],
    ids=str,
)
def test_adapters_that_are_more_than_lora_are_refused(tmp_path, config):
    folder = peft_adapter(tmp_path, 0, target_modules=r"model\.decoder.*fc1", **config)
    with pytest.raises(ValueError, match="plain LoRA adapter|A and B of a LoRA only"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), [folder])


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a PEFT adapter: adapter_config.json is missing"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), [tmp_path])


def test_adapter_of_another_whisper_is_refused(tmp_path):
    torch.manual_seed(0)
    other = get_peft_model(tiny_base(d_model=32), LoraConfig(r=4, target_modules=r"model\.decoder.*fc1"))
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.decoder\.layers\.0\.fc1"):
        MoeWhisperForConditionalGeneration.from_experts(tiny_base(), [tmp_path])
