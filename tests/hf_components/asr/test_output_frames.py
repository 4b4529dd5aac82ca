"""How many frames a model writes, asked of the model and of PEFT's wrapper around it."""

import pytest
import torch
from every_model import EVERY
from peft import LoraConfig, PeftModel

from hf_components.asr.families import family_of, load_asr
from hf_components.asr.output_frames import output_lengths, real_frames

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["wav2vec2", "parakeet ctc", "whisper ctc"])
def test_a_wrapped_model_answers_like_the_model(name, tmp_path):
    model, processor = load_asr(str(EVERY[name](tmp_path / "model")), None, torch.float32)
    family = family_of(model)
    inputs = family.inputs(processor, [torch.rand(n).numpy() for n in (8000, 16_000)])
    mask = inputs["attention_mask"]
    lengths = output_lengths(model, mask.sum(-1))
    frames = int(lengths.max())
    real = real_frames(model, (2, frames), mask)
    assert real.shape == (2, frames) and real.sum(-1).tolist() == lengths.tolist() and lengths[0] < lengths[1]
    assert real_frames(model, (2, frames), None).all()
    wrapped = PeftModel(model, LoraConfig(target_modules=list(family.lora_layers)))
    assert output_lengths(wrapped, mask.sum(-1)).tolist() == lengths.tolist()
    assert torch.equal(real_frames(wrapped, (2, frames), mask), real)
