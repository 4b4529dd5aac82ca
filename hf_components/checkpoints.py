"""Load Whisper checkpoints by folder or Hub id, with errors that say what to do."""

from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import WhisperProcessor

from hf_components.errors import UserError
from hf_components.stages import read_proof
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration


def load_whisper(name_or_path: str, language: str = "en") -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """A Whisper of any audio context and its processor, in evaluation mode on this process's device.

    Args:
        language: code such as "en"; a multilingual checkpoint then trains and decodes with the prompt "transcribe this
            language" instead of guessing it for each clip. English-only ones have no such prompt.
    Raises:
        UserError: there is no such checkpoint, or it is not a Whisper.
    """
    model, processor = _load(DynamicContextWhisper, name_or_path)
    if getattr(model.generation_config, "is_multilingual", False):
        if f"<|{language}|>" not in model.generation_config.lang_to_id:
            raise UserError(f"--language must be a code that {name_or_path} knows, such as en; got {language!r}")
        processor.tokenizer.set_prefix_tokens(language=language, task="transcribe", predict_timestamps=False)
        model.generation_config.language, model.generation_config.task = language, "transcribe"
    return model, processor


def load_moe_whisper(name_or_path: str) -> tuple[MoeWhisperForConditionalGeneration, WhisperProcessor]:
    """A MoE-Whisper and its processor, as `load_whisper`."""
    return _load(MoeWhisperForConditionalGeneration, name_or_path)


def load_processor(name_or_path: str) -> WhisperProcessor:
    """The processor of a Whisper checkpoint."""
    try:
        return WhisperProcessor.from_pretrained(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(f"{name_or_path} has no Whisper processor: {_first_line(error)}") from error


def base_model_id(name_or_path: str) -> str:
    """The Hub id of a base model: as given, or as `import_whisper` recorded it beside a local copy."""
    proof = read_proof(name_or_path)
    return (proof["metrics"].get("hub_id") if proof else None) or name_or_path


def _load(cls, name_or_path: str):
    if name_or_path.startswith((".", "/", "models/")) and not Path(name_or_path).exists():
        raise UserError(f"there is no checkpoint at {name_or_path}; recipes/import_whisper.py makes models/whisper-tiny.en")
    try:
        model, found = cls.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name_or_path} is not a checkpoint that can be loaded: {_first_line(error)}") from error
    if found["missing_keys"]:  # transformers would fill them with random numbers
        raise UserError(f"{name_or_path} is not a checkpoint of {cls.__name__}: it lacks {min(found['missing_keys'])}")
    return model.to(PartialState().device).eval(), load_processor(name_or_path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
