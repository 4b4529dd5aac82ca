"""LoRA by PEFT, and what is saved: stock transformers and PEFT alone read it, and a fault in it is noticed."""

import json

import peft
import pytest
import torch
from tiny_speech import GradientRecorder, rows, save_tiny_whisper, tiny_processor, tiny_whisper, training_arguments
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_components.asr.families import family_of
from hf_components.checkpoints.generation import prompt_of
from hf_components.checkpoints.loading import load_whisper
from hf_components.checkpoints.saving import save_whisper
from hf_components.runtime.errors import UserError
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit


def multilingual(folder):
    """As the checkpoints on the Hub are: languages and tasks to choose from, and an older prompt that contradicts
    them."""
    save_tiny_whisper(folder)
    ids = tiny_processor().tokenizer.get_vocab()
    for name, more in (
        (
            "generation_config.json",
            {
                "is_multilingual": True,
                "lang_to_id": {"<|en|>": ids["<|en|>"]},
                "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
                "forced_decoder_ids": [[1, None], [2, ids["<|translate|>"]]],
            },
        ),
        ("config.json", {"forced_decoder_ids": [[1, ids["<|en|>"]], [2, ids["<|translate|>"]]], "max_length": 64}),
    ):
        fields = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**fields, **more}))
    return load_whisper(str(folder))


def train(folder, model, steps=3) -> SpeechTrainer:
    args = training_arguments(folder, per_device_train_batch_size=4, max_steps=steps, learning_rate=1e-2)
    trainer = SpeechTrainer(model, args, tiny_processor(), rows(8))
    trainer.train()
    return trainer


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_merged_model_equals_adapter_on_the_base(tmp_path, freeze_encoder):
    base = save_tiny_whisper(tmp_path / "base")
    model, processor = load_whisper(str(base))
    lora = add_lora(model, LoraArguments(lora_rank=2, lora_alpha=8), freeze="encoder" if freeze_encoder else None)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert any("model.encoder." in name for name in trained) != freeze_encoder
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(tmp_path / "run", model)
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == trained
    save_lora(lora, tmp_path / "adapter")
    save_whisper(lora.merge_and_unload(), processor, tmp_path / "model")

    stock = WhisperForConditionalGeneration.from_pretrained(base)
    inputs = {
        "input_features": torch.randn(2, 80, 3000),
        "decoder_input_ids": torch.tensor([[257, 263, 5], [257, 263, 9]]),
    }
    plain = stock(**inputs).logits
    adapted = peft.PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()(**inputs).logits
    merged = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")(**inputs).logits
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)
    assert (plain - merged).abs().max() > 1e-2
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )


def test_a_fresh_adapter_changes_nothing():
    model, features = tiny_whisper(), torch.randn(1, 80, 100)
    expected = model(features, labels=torch.tensor([[1, 2]])).logits
    add_lora(model, LoraArguments(lora_dropout=0.0))
    torch.testing.assert_close(model(features, labels=torch.tensor([[1, 2]])).logits, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": 0}, "lora_rank 0, .*should be a positive integer"),
        ({"target_modules": ["qproj"]}, "target_modules qproj"),
    ],
)
def test_what_is_no_lora_is_named(options, message):
    with pytest.raises(UserError, match=message):
        add_lora(tiny_whisper(), LoraArguments(**options))


@pytest.mark.parametrize("finetuning", ["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(tmp_path, finetuning):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model, recorder = tiny_whisper(), GradientRecorder()
        if finetuning == "lora":
            add_lora(model, LoraArguments(lora_rank=2, lora_dropout=0.0))
        args = training_arguments(
            tmp_path, per_device_train_batch_size=4, max_steps=1, activation_checkpointing=checkpointing
        )
        SpeechTrainer(model, args, tiny_processor(), rows(4), callbacks=[recorder]).train()
        assert model.is_activation_checkpointing == checkpointing
        found.append(recorder.steps[0])
    assert found[0].keys() == found[1].keys() and len(found[0]) > 10
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_language_and_task_are_set_once_and_survive(tmp_path):
    model, processor = multilingual(tmp_path / "base")
    ids = processor.tokenizer.get_vocab()
    prompt = [ids[token] for token in ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")]
    assert prompt_of(model.generation_config) == processor.tokenizer.prefix_tokens == prompt
    assert family_of(model).tokenize(processor, "red")[:3] == prompt[1:]
    save_whisper(model, processor, tmp_path / "model")
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert WhisperProcessor.from_pretrained(tmp_path / "model").tokenizer("red").input_ids[:4] == prompt
    started = stock._retrieve_init_tokens(torch.zeros(1, 80, 3000), 1, stock.generation_config, stock.config, 3000, {})
    assert started.tolist() == [prompt]
    for file in ("config.json", "generation_config.json"):
        assert not json.loads((tmp_path / "model" / file).read_text()).get("forced_decoder_ids")


def test_a_checkpoint_that_does_not_load_as_it_was_saved_is_noticed(tmp_path, monkeypatch):
    model, processor = multilingual(tmp_path / "base")
    model.generation_config.task = "translate"  # trained to transcribe
    with pytest.raises(RuntimeError, match="does not load as it was saved: the prompt of generate"):
        save_whisper(model, processor, tmp_path / "model")
    model, processor = load_whisper(str(save_tiny_whisper(tmp_path / "english")))
    save = type(model).save_pretrained

    def forgetful(self, folder, **kwargs):
        save(self, folder, **kwargs)
        (folder / "generation_config.json").unlink()

    monkeypatch.setattr(type(model), "save_pretrained", forgetful)
    with pytest.raises(RuntimeError, match="generation_config.json"):
        save_whisper(model, processor, tmp_path / "model")

    def other_weights(self, folder, **kwargs):
        save(self, folder, **kwargs)
        self.model.decoder.layers[0].fc1.weight.data += 1

    model, processor = load_whisper(str(tmp_path / "english"))
    monkeypatch.setattr(type(model), "save_pretrained", other_weights)
    with pytest.raises(RuntimeError, match=r"model.decoder.layers.0.fc1.weight"):
        save_whisper(model, processor, tmp_path / "model")


@pytest.mark.parametrize(
    ("layers", "freeze", "message"),
    [
        (["proj_out"], None, "names proj_out, which shares its weights with the input embeddings"),
        (["conv1"], None, "names model.encoder.conv1, a Conv1d; a LoRA goes into linear layers"),
        (["embed_tokens"], None, "names model.decoder.embed_tokens, a Embedding; a LoRA goes into linear layers"),
        (["q_proj("], "encoder", r"no layer outside the frozen encoder is called q_proj\("),
        (["nothing"], None, "target_modules nothing"),
    ],
)
def test_a_lora_that_could_not_be_merged_is_refused(layers, freeze, message):
    with pytest.raises(UserError, match=message):
        add_lora(tiny_whisper(), LoraArguments(lora_rank=2, target_modules=layers), freeze=freeze)
