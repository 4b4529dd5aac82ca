"""Load Whisper checkpoints by folder or Hub id, with errors that say what to do."""

from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from transformers import WhisperProcessor

from hf_components.errors import UserError
from hf_components.stages import read_proof
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration


def load_whisper(name_or_path: str) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """A Whisper of any audio context and its processor, in evaluation mode on this process's device.

    Raises:
        UserError: there is no such checkpoint, or it is not a Whisper.
    """
    return _load(DynamicContextWhisper, name_or_path)


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
        raise UserError(f"there is no checkpoint at {name_or_path}; recipes/import_whisper.py makes the offline default")
    try:
        model, found = cls.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{name_or_path} is not a checkpoint that can be loaded: {_first_line(error)}") from error
    if found["missing_keys"]:  # transformers would fill them with random numbers
        raise UserError(f"{name_or_path} is not a checkpoint of {cls.__name__}: it lacks {min(found['missing_keys'])}")
    return model.to(PartialState().device).eval(), load_processor(name_or_path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
