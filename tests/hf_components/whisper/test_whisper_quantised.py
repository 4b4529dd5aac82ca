"""Quantised bases keep their experts: bitsandbytes, torch's int8, and libraries that replace every linear layer."""

import copy

import pytest
import torch
from tiny_speech import save_tiny_whisper, tone
from tiny_whisper import EXPERTS, WINDOW, noise, one_hot, tiny_base, tiny_moe, tokens
from torch import nn
from transformers import BitsAndBytesConfig, WhisperForConditionalGeneration
from transformers.quantizers.quantizers_utils import should_convert_module

from hf_components.asr.transcriber import Transcriber
from hf_components.checkpoints.loading import load_whisper
from hf_components.checkpoints.saving import save_whisper
from hf_components.speech.audio import log_mel
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration

pytestmark = pytest.mark.unit
FOUR_BITS = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT_BITS = {"load_in_8bit": True}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    tiny_moe(shared_expert=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """On CPUs with AVX512-BF16, four bits take only layers whose sizes are multiples of 64."""
    folder = tmp_path_factory.mktemp("wide_mixture")
    base = tiny_base(d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.2)
    tiny_moe(base, shared_expert=True).save_pretrained(folder)
    return folder


def load(folder, **options):
    pytest.importorskip("bitsandbytes")
    return MoeWhisperForConditionalGeneration.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**options)
    ).eval()


@torch.no_grad()
def logits_of_experts(model) -> list[torch.Tensor]:
    ids = tokens(2, 5).clamp(min=0)
    return [
        model(noise(2, WINDOW), decoder_input_ids=ids, expert_weights=one_hot(expert, 2)).logits
        for expert in range(EXPERTS)
    ]


def assert_experts_are_heard(quantised, model, error: float) -> None:
    """Each expert's logits are nearer to its own than to another expert's, and as near as the base's error allows."""
    ours, exact = logits_of_experts(quantised), logits_of_experts(model)
    for expert in range(EXPERTS):
        distances = [float((ours[expert] - other).abs().mean() / other.std()) for other in exact]
        assert distances[expert] == min(distances) < error, distances


@pytest.mark.parametrize(("options", "error"), [(FOUR_BITS, 0.6), (EIGHT_BITS, 0.05)], ids=["4 bits", "8 bits"])
def test_bitsandbytes_quantises_the_base_and_leaves_experts_and_router(saved, wide, options, error):
    saved = wide if options is FOUR_BITS else saved
    model, exact = load(saved, **options), MoeWhisperForConditionalGeneration.from_pretrained(saved)
    for layer in model.routed_layers().values():
        assert "bitsandbytes" in type(layer.linear).__module__ and layer.lora_a.dtype == torch.float32
    assert type(model.model.encoder.router.hidden) is nn.Linear
    for name, value in exact.state_dict().items():
        if ".lora_" in name or ".router." in name:
            assert torch.equal(model.state_dict()[name], value), name
    assert_experts_are_heard(model, exact, error)
    assert model.generate(noise(2, WINDOW), max_new_tokens=4).shape == (2, 4)


@pytest.mark.parametrize("options", [FOUR_BITS, EIGHT_BITS], ids=["4 bits", "8 bits"])
def test_quantised_mixture_is_saved_and_loaded(wide, options, tmp_path):
    model = load(wide, **options)
    model.save_pretrained(tmp_path)
    again = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path)
    for one, other in zip(logits_of_experts(again), logits_of_experts(model), strict=True):
        assert torch.equal(one, other)


def test_experts_train_on_a_base_of_four_bits(wide):
    model = load(wide, **FOUR_BITS).train()
    model.train_only(experts=True, router=False)
    base = {name: value.clone() for name, value in model.state_dict().items() if ".linear." in name}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(noise(2, 60), labels=tokens(2, 5), expert_weights=one_hot(1, 2)).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in base.items())


@pytest.mark.parametrize("options", [None, FOUR_BITS], ids=["plain", "4 bits"])
def test_a_lora_of_peft_on_top(wide, options):
    """QLoRA with the layers that everybody names."""
    peft = pytest.importorskip("peft")
    model = load(wide, **options) if options else MoeWhisperForConditionalGeneration.from_pretrained(wide)
    before = logits_of_experts(load(wide, **options) if options else model)
    if options:
        model = peft.prepare_model_for_kbit_training(model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.train()
    model(input_features=noise(2, 60), labels=tokens(2, 5)).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".default." in name and p.grad is not None for name, p in trained.items())
    # Last: on some CPUs, bitsandbytes packs the weights at the first evaluation, and they train no more.
    torch.testing.assert_close(logits_of_experts(model.eval())[1], before[1])


def test_dynamic_int8_of_torch():
    model = tiny_moe()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert all("quantized" in type(layer.linear).__module__ for layer in quantised.routed_layers().values())
    assert_experts_are_heard(quantised, model, 0.1)


class Replaced(nn.Module):
    """Stands for a library's quantised layer."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.quantised = linear

    def forward(self, hidden_states):
        return self.quantised(hidden_states)


def test_a_library_that_replaces_every_linear_layer():
    """quanto, HQQ, EETQ, AWQ, AQLM, HIGGS, SpQR and VPTQ ask `isinstance`, and leave what transformers excludes."""
    model = tiny_moe()
    excluded = [*model._keep_in_fp32_modules, "proj_out"]
    quantised = copy.deepcopy(model)
    names = [
        name
        for name, module in quantised.named_modules()
        if isinstance(module, nn.Linear) and should_convert_module(name, excluded)
    ]
    for name in names:
        quantised.set_submodule(name, Replaced(quantised.get_submodule(name)))
    layers = quantised.routed_layers()
    assert layers.keys() == model.routed_layers().keys()
    assert all(isinstance(layer.linear, Replaced) for layer in layers.values())
    assert len(names) == sum(isinstance(module, Replaced) for module in quantised.modules())
    assert_experts_are_heard(quantised, model, 1e-6)


def test_quantised_weights_take_no_experts_in(wide):
    quantised = load(wide, **FOUR_BITS)
    with pytest.raises(ValueError, match="experts are merged into plain linear layers.*got Linear4bit"):
        quantised.merge_expert(0)
    with pytest.raises(ValueError, match="load the model without quantisation, got `base` with"):
        MoeWhisperForConditionalGeneration.from_base(quantised)


def test_checkpoints_have_stocks_names(saved, tmp_path):
    """Weights of a plain Whisper under the same names, in files and from `load_state_dict`."""
    base = tiny_base()
    base.save_pretrained(tmp_path)
    model = MoeWhisperForConditionalGeneration.from_base(base)
    model.save_pretrained(tmp_path / "mixture")
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "mixture").state_dict()
    assert all(torch.equal(stock[name], value) for name, value in base.state_dict().items())
    other = MoeWhisperForConditionalGeneration.from_base(tiny_base(seed=3))
    assert not other.load_state_dict(base.state_dict(), strict=False).unexpected_keys
    layer = next(iter(other.routed_layers()))
    assert torch.equal(other.get_submodule(layer).weight, base.get_submodule(layer).weight)


@pytest.mark.parametrize(("options", "error"), [(FOUR_BITS, 0.6), (EIGHT_BITS, 0.05)], ids=["4 bits", "8 bits"])
def test_a_plain_whisper_transcribes(options, error, tmp_path):
    """Quantised while it is loaded, then from a checkpoint that is quantised already, as every recipe loads it."""
    pytest.importorskip("bitsandbytes")
    folder = save_tiny_whisper(tmp_path / "whisper", width=64)
    exact, processor = load_whisper(str(folder))
    model = DynamicContextWhisper.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**options)).eval()
    model.set_audio_context("dynamic", 100)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert sum("bitsandbytes" in type(layer).__module__ for layer in linear) >= len(linear) - 1  # not the output layer
    clips = [tone(0, 0, 0.6), tone(1, 0, 0.9)]
    features = log_mel(processor.feature_extractor, clips)
    ids = torch.tensor([[model.config.decoder_start_token_id, 5, 6]] * 2)
    with torch.no_grad():
        ours, theirs = (one(features, decoder_input_ids=ids).logits for one in (model, exact))
    assert float((ours - theirs).abs().mean() / theirs.std()) < error
    written = Transcriber(model, processor, max_new_tokens=4, num_beams=1)._transcribe(dict(enumerate(clips)))

    save_whisper(model, processor, tmp_path / "quantised")
    again, _ = load_whisper(str(tmp_path / "quantised"))
    assert again.is_quantized and again.audio_context == "dynamic"
    with torch.no_grad():
        assert torch.equal(again(features, decoder_input_ids=ids).logits, ours)
    loaded = Transcriber.from_pretrained(tmp_path / "quantised", max_new_tokens=4, num_beams=1)
    assert loaded._transcribe(dict(enumerate(clips))) == written
