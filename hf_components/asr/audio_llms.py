"""Language models that hear, and how each is asked to transcribe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, ProcessorMixin
from transformers.utils import is_mistral_common_available
from transformers.utils.import_utils import MISTRAL_COMMON_MIN_VERSION

from hf_components.asr.seq2seq import Seq2Seq, in_any_language, in_language
from hf_components.runtime import UserError

SEGMENTS = {"return_format": "transcription_only"}  # of what tells speakers and times as well


class FunAsr(Seq2Seq):
    """Between ear and language model it has an adaptor, which transformers 5.23 loads without a kind of attention, and
    so without a mask over padding."""

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        model, processor = super().load(name_or_path, fields, language, dtype)
        model.config.adaptor_config._attn_implementation = model.config._attn_implementation
        return model, processor


class Voxtral(Seq2Seq):
    """Asked by mistral-common, which is not among what this project installs."""

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        if not is_mistral_common_available():  # told before gigabytes are read
            raise UserError(
                f"{name_or_path} is a Voxtral, whose requests mistral-common writes: pip install "
                f"'mistral-common>={MISTRAL_COMMON_MIN_VERSION}'"
            )
        return super().load(name_or_path, fields, language, dtype)


def _granite(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """The words that its model card has for transcription."""
    prompt = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"{processor.audio_token}can you transcribe the speech into a written format?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return processor([prompt] * len(clips), clips, return_tensors="pt")


def _voxtral(processor: ProcessorMixin, clips: Sequence[np.ndarray], language: str) -> Mapping[str, Any]:
    """The model's name, which the request wants, changes nothing in it."""
    return processor.apply_transcription_request(
        clips,
        model_id="voxtral",
        language=language,
        format="WAV",
        sampling_rate=processor.feature_extractor.sampling_rate,
    )


OTHERS = {"model_class": AutoModelForSeq2SeqLM}  # not among what transformers lists as speech models that write text
AUDIO_LLMS = (
    Seq2Seq("Qwen3-ASR", ("qwen3_asr",), in_language, reading=SEGMENTS),
    FunAsr("Fun-ASR", ("fun_asr_nano",), in_language),
    Seq2Seq("GLM-ASR", ("glmasr",), in_any_language, hears_windows=True, **OTHERS),
    Seq2Seq("Granite Speech", ("granite_speech", "granite_speech_plus"), _granite),
    Voxtral("Voxtral", ("voxtral",), _voxtral, hears_windows=True),
    # Without noise on what it hears, which it has in training, so that a clip has one transcript.
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
    # It answers in a sentence about the audio, around the transcript.
    Seq2Seq(
        "Audio Flamingo 3",
        ("audioflamingo3",),
        in_any_language,
        reading={"strip_prefix": True},
        hears_windows=True,
        **OTHERS,
    ),
)
