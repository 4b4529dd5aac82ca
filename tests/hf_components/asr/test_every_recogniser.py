"""What holds for every kind of model that is served: batches, short and long recordings, adapters. And none is
missing."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from every_model import EVERY, HEARS_PADDING, NEEDS_MISTRAL_COMMON, WITHOUT_PEFT
from peft import LoraConfig, get_peft_model
from tiny_speech import tone
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.utils import is_mistral_common_available

from hf_components.asr.families import FAMILIES, NO_RECOGNISERS, family_of, load_asr
from hf_components.asr.family import Family
from hf_components.asr.transcriber import Transcriber
from hf_components.speech.cutting import cut_at_quiet

pytestmark = pytest.mark.unit

CLIPS = [tone(i % 3, i, 0.5 + 0.4 * i) for i in range(4)]
EQUAL_CLIPS = [tone(i % 3, i, 1.0) for i in range(4)]
no_mistral_common = pytest.mark.skipif(not is_mistral_common_available(), reason="needs mistral-common >= 1.11.5")


def models(without: tuple[str, ...] = ()) -> list:
    return [
        pytest.param(name, marks=no_mistral_common) if name in NEEDS_MISTRAL_COMMON else name
        for name in EVERY
        if name not in without
    ]


every_model = pytest.mark.parametrize("name", models())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> folder of its checkpoint, made once."""
    made = {}

    def folder_of(name: str) -> str:
        if name not in made:
            made[name] = str(EVERY[name](tmp_path_factory.mktemp("model")))
        return made[name]

    return folder_of


def written(model, processor, clips) -> list[str]:
    family = family_of(model)
    with torch.inference_mode():
        return family.decode(model, processor, family.inputs(processor, clips), max_new_tokens=8, num_beams=1)


def own_linears(model) -> list[str]:
    """Linear layers but those that share their weights, by which a merged LoRA would come elsewhere too, and the
    head."""
    users = Counter(id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Embedding)))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and users[id(module.weight)] == 1 and "head" not in name
    ]


def test_all_that_transformers_lists_is_served_or_said_to_be_no_recogniser():
    listed = {
        name
        for kind in ("SPEECH_SEQ_2_SEQ", "CTC", "RNNT", "TDT")
        for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")
    }
    served = {name for family in FAMILIES for name in family.model_classes}
    assert listed - served == NO_RECOGNISERS.keys() and not served & NO_RECOGNISERS.keys()


@every_model
def test_a_batch_is_written_as_its_clips_alone(name, folders):
    model, processor = load_asr(folders(name))
    clips = EQUAL_CLIPS if name in HEARS_PADDING else CLIPS
    together = written(model, processor, clips)
    assert together == [written(model, processor, [clip])[0] for clip in clips] and len(set(together)) > 1


@every_model
def test_a_clip_of_one_sample_is_taken(name, folders):
    assert len(written(*load_asr(folders(name)), [np.zeros(1, np.float32)])) == 1


@every_model
def test_a_long_recording_is_the_texts_of_its_pieces(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(Family, "longest_seconds", 2.0)  # not to wait
    transcriber = Transcriber.from_pretrained(
        folders(name), batch_seconds=2.0, max_new_tokens=8, num_beams=1, dtype="float32"
    )
    clip = np.concatenate([tone(1, 0, 1.2), np.zeros(8000, np.float32), tone(2, 1, 0.7)])
    soundfile.write(tmp_path / "long.wav", clip, 16_000, subtype="FLOAT")
    parts = cut_at_quiet(clip, 2.0, 16_000)
    assert len(parts) == 2
    texts = [written(transcriber.model, transcriber.processor, [part])[0].strip() for part in parts]
    assert transcriber.transcribe(tmp_path / "long.wav") == " ".join(text for text in texts if text)


@pytest.mark.parametrize("name", models(without=WITHOUT_PEFT))
def test_a_lora_on_top_writes_what_peft_writes(name, folders, tmp_path):
    model, processor = load_asr(folders(name))
    layers = own_linears(model)
    before = model.get_submodule(layers[0]).weight.clone()
    torch.manual_seed(1)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=layers, init_lora_weights=False)).eval()
    lora.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    transcriber = Transcriber.from_pretrained(folders(name), adapter=tmp_path / "lora", dtype="float32")
    expected = written(lora.base_model.model, processor, CLIPS[2:3])
    assert written(transcriber.model, transcriber.processor, CLIPS[2:3]) == expected
    assert not torch.equal(transcriber.model.get_submodule(layers[0]).weight, before)
