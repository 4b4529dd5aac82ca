"""The registry of speech recognisers that `Transcriber`, `transcribe` and the recipes support.

To add a family, add an entry to `FAMILIES`: a `Seq2Seq` with its own request, or a new subclass of `Family`.
"""

import torch
from transformers import AutoModelForRNNT, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

from hf_components.asr.audio_llms import AUDIO_LLMS
from hf_components.asr.ctc import Ctc
from hf_components.asr.family import Family, unprompted
from hf_components.asr.frame_synchronous import Kyutai, VoxtralRealtime
from hf_components.asr.seamless import Seamless
from hf_components.asr.seq2seq import EncoderDecoder, Seq2Seq
from hf_components.asr.transducer import TRANSDUCERS, Transducer, lookahead
from hf_components.asr.whisper import Whisper
from hf_components.asr.whisper_ctc import WhisperCtc
from hf_components.checkpoints import read_config
from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE

# transformers lists them as speech-to-text models, but they are not recognisers.
NO_RECOGNISERS = {
    "dia": "reads text aloud",
    "vibevoice": "reads text aloud",
    "pop2piano": "writes notes for the piano",
}
UNPROMPTED = tuple(sorted(set(MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES) - NO_RECOGNISERS.keys()))

FAMILIES: tuple[Family, ...] = (
    Whisper(),
    WhisperCtc(),
    Ctc(),
    Transducer("Nemotron Streaming", {"nemotron_asr_streaming": AutoModelForRNNT}, writing=lookahead),
    Transducer(
        "Nemotron 3.5",
        {"nemotron3_5_asr": AutoModelForRNNT},
        lambda processor, clips, language: processor(clips, language=language, sampling_rate=SAMPLING_RATE),
        writing=lookahead,
    ),
    Transducer("transducer", TRANSDUCERS),
    Seq2Seq(
        "Canary",
        ("canary",),
        lambda processor, clips, language: processor.apply_transcription_request(clips, source_language=language),
    ),
    Seq2Seq(
        "Cohere",
        ("cohere_asr",),
        lambda processor, clips, language: processor(clips, language=language, sampling_rate=SAMPLING_RATE),
    ),
    Seamless(),
    Kyutai(),
    VoxtralRealtime(),
    *AUDIO_LLMS,
    EncoderDecoder("encoder-decoder", UNPROMPTED, unprompted),
)


def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """The family of a model or of its configuration. Raises UserError if no family supports it."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    return _family(config.model_type, config.name_or_path)


def is_audio_llm(model_type: str | None) -> bool:
    """Whether models of a type are language models that hear, for which transformers has no speech pipeline."""
    return any(model_type in family.model_classes for family in AUDIO_LLMS)


def can_be_packed(model_type: str) -> bool:
    """Whether `pack_submission` takes models of a type. Raises UserError if no family supports it."""
    return _family(model_type, "").packed(model_type, None) is not None


def load_asr(
    name_or_path: str, language: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a supported speech recogniser and its processor, in evaluation mode on this process's device.

    Args:
        name_or_path: folder or Hub id.
        language: code such as "en", for checkpoints that store their prompt (Whisper); by default the saved one.
        dtype: type of the weights.
    Raises:
        UserError: there is no such checkpoint, no family supports it, or it lacks weights.
    """
    fields = read_config(name_or_path)
    return _family(fields["model_type"], name_or_path).load(name_or_path, fields, language, dtype)


def _family(model_type: str, name_or_path: str) -> Family:
    for family in FAMILIES:
        if model_type in family.model_classes:
            return family
    found = f"{name_or_path or 'the model'} is of type {model_type}"
    if model_type in NO_RECOGNISERS:
        raise UserError(
            f"{found}, which {NO_RECOGNISERS[model_type]} and recognises no speech; choose a speech recogniser"
        )
    supported = sorted({name for family in FAMILIES for name in family.model_classes})
    raise UserError(f"{found}, which cannot transcribe; supported types are {', '.join(supported)}")
