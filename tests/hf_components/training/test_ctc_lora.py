"""LoRA in a wav2vec2: small, alone in moving, and the same after saving, in plain PEFT and merged in plain
transformers."""

import peft
import pytest
import torch
from tiny_ctc import ctc_trainer, save_tiny_wav2vec2, tiny_ctc_processor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, pipeline

from hf_components.asr.families import family_of, load_asr
from hf_components.training.lora import LoraArguments, add_lora, save_lora

pytestmark = pytest.mark.unit
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
FEED_FORWARD = ("intermediate_dense", "output_dense")


@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + FEED_FORWARD])
def test_saved_adapter_and_merged_model_equal_what_was_trained(tmp_path, targets):
    base = save_tiny_wav2vec2(tmp_path / "base")
    model, processor = load_asr(str(base))
    lora = add_lora(model, LoraArguments(lora_rank=2, lora_alpha=8, target_modules=list(targets)))
    carried = {
        name.rpartition(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name
    }
    assert carried == set(targets)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ctc_trainer(tmp_path / "run", model, from_scratch=False, max_steps=3, learning_rate=1e-2).train()
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == {
        name for name in before if ".lora_" in name
    }

    waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    trained = model.eval()(waveforms).logits
    save_lora(lora, tmp_path / "adapter")
    lora.merge_and_unload().save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    stock = Wav2Vec2ForCTC.from_pretrained(base)
    plain = stock(waveforms).logits
    adapted = peft.PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()(waveforms).logits
    merged = Wav2Vec2ForCTC.from_pretrained(tmp_path / "merged").eval()(waveforms).logits
    assert not torch.allclose(plain, trained, atol=1e-3)
    torch.testing.assert_close(adapted, trained, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(merged, trained, atol=1e-5, rtol=1e-4)
    recogniser = pipeline("automatic-speech-recognition", model=str(tmp_path / "merged"), device="cpu")
    assert isinstance(recogniser({"raw": waveforms[0].numpy(), "sampling_rate": 16_000})["text"], str)


def test_the_convolutions_are_left_out_of_the_backward_pass(tmp_path):
    model, _ = load_asr(str(save_tiny_wav2vec2(tmp_path / "base")))
    add_lora(model, LoraArguments(lora_rank=2))
    for frozen in (False, True):
        family_of(model).prepare_for_training(model, from_scratch=not frozen)
        assert model.train().wav2vec2.feature_extractor(torch.randn(1, 8000)).requires_grad != frozen


@pytest.mark.parametrize("targets", [ATTENTION, ATTENTION + FEED_FORWARD])
def test_rank_8_is_a_small_part_of_a_base_size_model(targets):
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(tiny_ctc_processor().tokenizer)))
        size = model.num_parameters()
        add_lora(model, LoraArguments(lora_rank=8, target_modules=list(targets)))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert size > 90e6 and 0.005 < trained / size <= 0.015
