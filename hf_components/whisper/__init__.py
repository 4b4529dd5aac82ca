"""MoE-Whisper, Whisper on short audio, its encoder with CTC. Closed: the Hub copies this folder to users' machines.

Imports torch and transformers; `save_experts` and `from_experts` also need peft and safetensors.
"""

from . import auto_classes
from .configuration_moe_whisper import MoeWhisperConfig
from .modeling_dynamic_whisper import DynamicContextWhisper
from .modeling_moe_whisper import MoeWhisperForConditionalGeneration
from .modeling_whisper_ctc import WhisperForCTC

__all__ = ["DynamicContextWhisper", "MoeWhisperConfig", "MoeWhisperForConditionalGeneration", "WhisperForCTC"]
