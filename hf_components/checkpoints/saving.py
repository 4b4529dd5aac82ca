"""Save a trained Whisper as a stock checkpoint, and check that it loads as it was saved."""

import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperProcessor

from hf_components.checkpoints.generation import prompt_of
from hf_components.checkpoints.loading import save_processor
from hf_components.runtime import UserError
from hf_components.whisper import DynamicContextWhisper

NOT_COMPARED = ("_name_or_path", "transformers_version")


def save_whisper(model: DynamicContextWhisper, processor: WhisperProcessor, folder: Path) -> None:
    """Save model and processor for stock transformers, load both again, and compare.

    The configuration keeps the audio context for `load_whisper`; stock transformers always sees a 30 s window.
    Language and task are set once, when the base is loaded. The prompt of the saved model's `generate` must be the
    prompt of the labels in training.

    Raises:
        RuntimeError: the loaded model or processor differs from the saved one, or the two prompts differ.
    """
    model.config.audio_context = model.audio_context
    model.config.min_audio_context = model.min_audio_context
    model.save_pretrained(folder)
    save_processor(processor, folder)
    differing = _differing_settings(model, processor, folder)
    stock = WhisperForConditionalGeneration.from_pretrained(folder, dtype=model.dtype)
    weights = model.state_dict()
    differing += [
        name for name, value in stock.state_dict().items() if not torch.equal(value, weights[name].to(value.device))
    ]
    if differing:
        raise RuntimeError(f"{folder} does not load as it was saved: {', '.join(differing[:5])}")


def check_savable(model: DynamicContextWhisper, processor: WhisperProcessor) -> None:
    """Do before training what `save_whisper` checks after it, apart from the weights.

    Raises:
        UserError: the settings of the base or its processor would not load as they were saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        save_processor(processor, folder)
        if differing := _differing_settings(model, processor, Path(folder)):
            raise UserError(
                f"a model trained from {model.name_or_path} could not be saved: {', '.join(differing)} would differ "
                "when it is loaded; use a base whose configuration and tokenizer belong together"
            )


def _differing_settings(model: DynamicContextWhisper, processor: WhisperProcessor, folder: Path) -> list[str]:
    """What stock transformers loads from `folder` in another way than it was saved."""
    config = WhisperConfig.from_pretrained(folder)
    try:
        generation_config = GenerationConfig.from_pretrained(folder)
    except OSError:  # the file is missing
        generation_config = GenerationConfig()
    loaded = WhisperProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    of_stock = loaded.tokenizer
    pairs = {
        "config.json": (_fields(model.config), _fields(config)),
        "generation_config.json": (_fields(model.generation_config), _fields(generation_config)),
        "the feature extractor": (processor.feature_extractor.to_dict(), loaded.feature_extractor.to_dict()),
        "the vocabulary": (tokenizer.get_vocab(), of_stock.get_vocab()),
        "the prompt of the labels": (tokenizer.prefix_tokens, of_stock.prefix_tokens),
        "the prompt of generate": (tokenizer.prefix_tokens, prompt_of(generation_config)),
    }
    return [name for name, (saved, found) in pairs.items() if saved != found]


def _fields(config) -> dict:
    return {name: value for name, value in config.to_dict().items() if name not in NOT_COMPARED}
