"""Save a trained Whisper as a stock checkpoint, and check that it loads as it was saved."""

from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from hf_components.checkpoints.loading import save_processor
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
    stock = WhisperForConditionalGeneration.from_pretrained(folder, dtype=model.dtype)
    loaded = WhisperProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    of_stock = loaded.tokenizer
    pairs = {
        "config.json": (_fields(model.config), _fields(stock.config)),
        "generation_config.json": (_fields(model.generation_config), _fields(stock.generation_config)),
        "the feature extractor": (processor.feature_extractor.to_dict(), loaded.feature_extractor.to_dict()),
        "the vocabulary": (tokenizer.get_vocab(), of_stock.get_vocab()),
        "the prompt of the labels": (tokenizer.prefix_tokens, of_stock.prefix_tokens),
        "the prompt of generate": (tokenizer.prefix_tokens, prompt_of(stock.generation_config)),
    }
    differing = [name for name, (saved, found) in pairs.items() if saved != found]
    weights = model.state_dict()
    differing += [
        name for name, value in stock.state_dict().items() if not torch.equal(value, weights[name].to(value.device))
    ]
    if differing:
        raise RuntimeError(f"{folder} does not load as it was saved: {', '.join(differing[:5])}")


def prompt_of(generation_config: GenerationConfig) -> list[int]:
    """The tokens that `generate` puts before a transcript: start, language and task if multilingual, no timestamps."""
    fields = generation_config.to_dict()
    prompt = [fields["decoder_start_token_id"]]
    if fields.get("is_multilingual"):
        prompt += [
            fields["lang_to_id"].get(f"<|{fields.get('language')}|>"),
            fields["task_to_id"].get(fields.get("task")),
        ]
    return [*prompt, fields.get("no_timestamps_token_id")]


def _fields(config) -> dict:
    return {name: value for name, value in config.to_dict().items() if name not in NOT_COMPARED}
