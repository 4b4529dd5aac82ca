"""Experts between stages: fresh, saved, loaded, and what does not fit."""

import copy

import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper
from transformers import WhisperForConditionalGeneration

from hf_components.moe.experts import (
    ExpertArguments,
    build_experts,
    freeze_shared_expert,
    load_router,
    load_trained_experts,
    save_trained_experts,
    start_from_lora,
)
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import waveforms
from hf_components.whisper.router import UtteranceRouter

pytestmark = pytest.mark.unit


def test_fresh_experts_change_nothing_and_are_built_as_asked():
    base = tiny_whisper()
    model = build_experts(base, ExpertArguments(lora_rank=4, target_modules=["q_proj", "fc1"]), 3, router_layer=2)
    assert (model.config.num_experts, model.config.router_layer, model.config.shared_expert) == (3, 2, True)
    assert {name.rsplit(".", 1)[-1] for name in model.routed_layers()} == {"q_proj", "fc1"}
    features = log_mel(tiny_processor().feature_extractor, waveforms(rows(2)), 3000)
    start = torch.full((2, 1), base.config.decoder_start_token_id)
    torch.testing.assert_close(
        model(features, decoder_input_ids=start).logits, base(features, decoder_input_ids=start).logits
    )


def test_a_single_expert_has_no_shared_one():
    assert not build_experts(tiny_whisper(), ExpertArguments(), 1, router_layer=1).config.shared_expert


@pytest.mark.parametrize(
    ("fields", "message"), [({"lora_rank": 0}, "lora_rank"), ({"target_modules": ["lm_head"]}, "target_modules")]
)
def test_sizes_out_of_range_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        build_experts(tiny_whisper(), ExpertArguments(**fields), 3, router_layer=1)


@pytest.mark.parametrize("shared", [True, False])
def test_round_trip(tmp_path, shared):
    model = tiny_moe(shared_expert=shared, lora_dropout=0.1, target_modules=["v_proj", "fc2"])
    save_trained_experts(model, tmp_path)
    loaded = load_trained_experts(tiny_whisper(), tmp_path, mixture="logits")
    assert (
        loaded.config.mixture == "logits"
        and loaded.config.shared_expert == shared
        and loaded.config.lora_dropout == 0.1
    )
    for name, value in model.state_dict().items():
        if ".router." not in name:
            assert torch.equal(loaded.state_dict()[name], value), name
    folders = [path.name for path in tmp_path.glob("expert_*") if path.is_dir()]  # beside files of code
    assert sorted(folders) == ["expert_0", "expert_1", "expert_2"]


@pytest.mark.filterwarnings("ignore")
def test_saved_experts_are_peft_adapters_with_the_shared_one_inside(tmp_path):
    from peft import PeftModel

    model = tiny_moe()
    save_trained_experts(model, tmp_path)
    base = tiny_whisper()
    stock = WhisperForConditionalGeneration(base.config).eval()
    stock.load_state_dict(base.state_dict())
    adapted = PeftModel.from_pretrained(stock, tmp_path / "expert_1")
    features = log_mel(tiny_processor().feature_extractor, waveforms(rows(1)), 3000)
    start = torch.full((1, 1), base.config.decoder_start_token_id)
    with torch.no_grad():
        ours = model(
            features, decoder_input_ids=start, expert_weights=torch.eye(3)[1:2], fit_audio_context=False
        ).logits
        theirs = adapted(input_features=features, decoder_input_ids=start).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layers", [2, 4])
def test_experts_of_another_base_model_are_refused(tmp_path, layers):
    save_trained_experts(tiny_moe(), tmp_path)
    with pytest.raises(UserError, match="do not fit"):
        load_trained_experts(tiny_whisper(encoder_layers=layers), tmp_path)


def test_a_base_model_is_known_by_its_weights_not_by_its_name(tmp_path):
    save_trained_experts(tiny_moe(), tmp_path)
    renamed, finetuned = tiny_whisper(), tiny_whisper()
    renamed.name_or_path = finetuned.name_or_path = "runs/other/model"
    load_trained_experts(renamed, tmp_path), load_trained_experts(renamed.to(torch.bfloat16), tmp_path)
    with torch.no_grad():
        finetuned.model.decoder.layers[0].fc1.weight += 0.01
    with pytest.raises(
        UserError, match="the experts in .* adapt .*, not runs/other/model, which has other weights; give the model"
    ):
        load_trained_experts(finetuned, tmp_path)


def test_what_is_missing_or_out_of_range_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no experts.safetensors; .* the output folder of pretrain_experts"):
        load_trained_experts(tiny_whisper(), tmp_path)
    save_trained_experts(tiny_moe(), tmp_path)
    with pytest.raises(UserError, match=r"`experts_per_utterance` must lie in \[1, 3\], got 4"):
        load_trained_experts(tiny_whisper(), tmp_path, experts_per_utterance=4)


def test_router_round_trip_and_its_absence(tmp_path):
    router = UtteranceRouter(16, 8, 3)
    router.save(tmp_path / "router", router_layer=2)
    loaded, layer = load_router(tmp_path / "router")
    assert layer == 2 and all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in router.state_dict().items()
    )
    with pytest.raises(UserError, match=r"router.json is missing.*output folder of pretrain_router"):
        load_router(tmp_path)


def trained_lora(**sizes):
    lora = build_experts(tiny_whisper(), ExpertArguments(**sizes), 1, router_layer=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in lora.routed_layers().values():
            layer.lora_b.copy_(0.3 * torch.randn(layer.lora_b.shape, generator=generator))
    return lora


@pytest.fixture(scope="module")
def lora_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora")
    save_trained_experts(trained_lora(), folder)
    return folder


def logits(model, **routing):
    features = log_mel(tiny_processor().feature_extractor, waveforms(rows(2)), 3000)
    start = torch.full((2, 1), model.config.decoder_start_token_id)
    return model(features, decoder_input_ids=start, **routing).logits


@pytest.mark.parametrize(("num_experts", "sizes"), [(1, {}), (3, {}), (3, {"lora_rank": 11, "lora_alpha": 7})])
@pytest.mark.parametrize("inside", ["", "expert_0"], ids=["training", "adapter"])
def test_experts_that_start_from_a_lora_compute_what_it_computes(lora_folder, num_experts, sizes, inside):
    model = build_experts(tiny_whisper(), ExpertArguments(**sizes), num_experts, router_layer=2)
    start_from_lora(model, lora_folder / inside)
    expected = logits(trained_lora())
    assert not torch.allclose(expected, logits(tiny_whisper()))
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize(
    ("sizes", "layer", "num_experts", "message"),
    [
        ({"lora_rank": 4}, 2, 3, "has rank 8, the experts that would start from it 4; set lora_rank to 8 or more"),
        ({"target_modules": ["fc1"]}, 2, 3, "adapt different layers"),
        ({}, 1, 3, "adapt different layers"),
        (
            {"shared_expert": False},
            2,
            3,
            "--lora_model is the start .* --no_shared_expert is given; leave one of them out",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_told(lora_folder, sizes, layer, num_experts, message):
    model = build_experts(tiny_whisper(), ExpertArguments(**sizes), num_experts, router_layer=layer)
    with pytest.raises(UserError, match=message):
        start_from_lora(model, lora_folder)


def test_several_experts_are_no_single_lora(tmp_path):
    model = build_experts(tiny_whisper(), ExpertArguments(), 3, router_layer=2)
    save_trained_experts(model, tmp_path)
    with pytest.raises(UserError, match="single LoRA, but .* holds several; train one by pretrain_experts"):
        start_from_lora(model, tmp_path)


def test_a_lora_of_other_weights_is_refused(lora_folder):
    model = build_experts(tiny_whisper(seed=1), ExpertArguments(), 3, router_layer=2)
    with pytest.raises(UserError, match="which has other weights"):
        start_from_lora(model, lora_folder)


@pytest.mark.parametrize("router", [True, False])  # weights with and without a gradient take two ways through a layer
def test_a_frozen_shared_expert_gets_no_gradient_and_the_others_do(lora_folder, router):
    model = build_experts(tiny_whisper(), ExpertArguments(), 3, router_layer=2)
    start_from_lora(model, lora_folder)
    model.train_only(experts=True, router=False)
    before, weights = logits(model), torch.tensor([[0.5, 0.3, 0.2]], requires_grad=router)
    freeze_shared_expert(model, weight_decay=0.0)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    logits(copy.deepcopy(model), expert_weights=weights).square().mean().backward()  # a copy is another model
    assert all(layer.lora_b.grad is None for layer in model.routed_layers().values())
    logits(model, expert_weights=weights).square().mean().backward()
    for layer in model.routed_layers().values():
        assert not layer.lora_b.grad[-1].any() and not layer.lora_a.grad[-1].any()
    assert any(layer.lora_b.grad[:-1].abs().sum() > 0 for layer in model.routed_layers().values())
    with pytest.raises(UserError, match="needs a shared expert; train the experts with --shared_expert"):
        freeze_shared_expert(
            build_experts(tiny_whisper(), ExpertArguments(shared_expert=False), 3, router_layer=2), 0.0
        )
    with pytest.raises(UserError, match=r"weight_decay 0\.01 would shrink the shared expert"):
        freeze_shared_expert(model, 0.01)
