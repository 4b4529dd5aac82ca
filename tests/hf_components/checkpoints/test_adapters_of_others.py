"""PEFT adapters and voices that are damaged, or belong to another model."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_speech import save_tiny_whisper
from tiny_voices import random_lora

from hf_components.asr.voices import load_voices
from hf_components.checkpoints.loading import load_whisper, merge_adapter
from hf_components.checkpoints.voices import save_voice
from hf_components.runtime.errors import UserError
from hf_components.training.lora import LoraArguments, add_lora, save_lora

pytestmark = pytest.mark.unit
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    model, _ = load_whisper(str(save_tiny_whisper(folder / "base")))
    save_lora(add_lora(model, LoraArguments(lora_rank=2)), folder / "adapter")
    return folder


def changed(folder, **fields):
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "adapter", copy)
    config = copy / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return copy


def merge(folder, adapter, base: str = "base"):
    return merge_adapter(load_whisper(str(folder / base))[0], str(adapter))


def test_an_adapter_of_another_model_is_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING):
        merge(folder, changed(folder))
    assert "trained over" not in caplog.text
    with caplog.at_level(logging.WARNING):
        merge(folder, changed(folder, base_model_name_or_path="openai/whisper-large-v3"))
    assert "trained over openai/whisper-large-v3, and is merged into" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": "x("}, "is not an adapter of .*unterminated"),
        ({"r": 4}, "is not an adapter of .*size mismatch for"),
        ({"r": "2"}, "is not an adapter of"),
        ({"peft_type": "X"}, "is not an adapter of"),
    ],
)
def test_settings_that_do_not_fit_are_named(folder, fields, message):
    with pytest.raises(UserError, match=message):
        merge(folder, changed(folder, **fields))


def test_weights_that_are_missing_or_no_numbers_are_named(folder):
    adapter = changed(folder)
    weights = load_file(adapter / WEIGHTS)
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, adapter / WEIGHTS)
    with pytest.raises(UserError, match="copy has NaN or infinite weights, such as .*lora_"):
        merge(folder, adapter)
    (adapter / WEIGHTS).unlink()
    with pytest.raises(UserError, match="it has no adapter_model.safetensors; copy it"):
        merge(folder, adapter)


def test_a_voice_whose_record_no_model_fits_is_named(folder, tmp_path):
    model, _ = load_whisper(str(folder / "base"))
    save_voice(random_lora(model, "anna"), tmp_path / "anna")
    record = tmp_path / "anna" / "voice.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"first_layer": -1}))
    with pytest.raises(UserError, match="anna does not fit .*base: .*got -1; learn the voice again"):
        load_voices(model, [tmp_path / "anna"])
