"""Language models with audio input, and how to request a transcript from each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, ProcessorMixin
from transformers.utils import is_mistral_common_available
from transformers.utils.import_utils import MISTRAL_COMMON_MIN_VERSION

from hf_components.asr.seq2seq import Seq2Seq, in_any_language, in_language
from hf_components.runtime import UserError

SEGMENTS = {"return_format": "transcription_only"}  # for models that also write speakers and times


class FunAsr(Seq2Seq):
    """transformers 5.23 loads the adaptor between encoder and language model without an attention implementation, and
    therefore without a mask over padding. `load` sets it."""

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        model, processor = super().load(name_or_path, fields, language, dtype)
        model.config.adaptor_config._attn_implementation = model.config._attn_implementation
        return model, processor


class Voxtral(Seq2Seq):
    """Its requests need mistral-common, which this project does not install."""

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        if not is_mistral_common_available():  # checked before gigabytes are read
            advice = f"pip install 'mistral-common>={MISTRAL_COMMON_MIN_VERSION}'"
            raise UserError(f"{name_or_path} is a Voxtral, which needs mistral-common: {advice}")
        return super().load(name_or_path, fields, language, dtype)


def _granite(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """The transcription prompt of the model card."""
    prompt = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{processor.audio_token}can you transcribe the speech into a written format?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return processor([prompt] * len(clips), clips, return_tensors="pt")


def _voxtral(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """The request requires a model id, but it has no effect."""
    return processor.apply_transcription_request(
        clips,
        model_id="voxtral",
        language=language,
        format="WAV",
        sampling_rate=processor.feature_extractor.sampling_rate,
    )


OTHERS = {"model_class": AutoModelForSeq2SeqLM}  # transformers does not list these as speech-to-text models
AUDIO_LLMS = (
    Seq2Seq("Qwen3-ASR", ("qwen3_asr",), in_language, reading=SEGMENTS),
    FunAsr("Fun-ASR", ("fun_asr_nano",), in_language),
    Seq2Seq("GLM-ASR", ("glmasr",), in_any_language, hears_windows=True, **OTHERS),
    Seq2Seq("Granite Speech", ("granite_speech", "granite_speech_plus"), _granite),
    Voxtral("Voxtral", ("voxtral",), _voxtral, hears_windows=True),
    # Without the noise that is added to its input in training, so that a clip has one transcript.
    Seq2Seq("VibeVoice-ASR", ("vibevoice_asr",), in_any_language, reading=SEGMENTS, writing={"sample": False}),
    Seq2Seq(
        "MOSS-Transcribe",
        ("moss_transcribe_diarize",),
        in_any_language,
        reading=SEGMENTS,
        hears_windows=True,
        **OTHERS,
    ),
    Seq2Seq("Nemotron Transcribe", ("nemo_speechlm",), in_any_language, **OTHERS),
    # It answers with a sentence about the audio that contains the transcript.
    Seq2Seq(
        "Audio Flamingo 3",
        ("audioflamingo3",),
        in_any_language,
        reading={"strip_prefix": True},
        hears_windows=True,
        **OTHERS,
    ),
)
