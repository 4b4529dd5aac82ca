"""A tiny checkpoint of every kind that is served: name -> function that saves it; and how each is trained."""

from pathlib import Path

import tiny_audio_llms
import tiny_encoder_decoders
import tiny_models
import torch
from tiny_speech import rows, save_tiny_whisper, tiny_processor, tiny_whisper, training_arguments

from hf_components.asr import family_of, load_asr, with_ctc_head
from hf_components.training import SpeechTrainer

STEPS = 4


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for part in model.modules():
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def trainer_of(base: Path, folder: Path, *, dropout: bool = False, callbacks=(), **options) -> SpeechTrainer:
    """All weights of a checkpoint, by plain gradients, on eight clips in a batch."""
    model, processor = load_asr(str(base))
    family_of(model).prepare_for_training(model)
    args = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.05, "max_steps": STEPS, **options}
    return SpeechTrainer(
        model if dropout else without_dropout(model),
        training_arguments(folder, **{"per_device_train_batch_size": 8, **args}),
        processor,
        rows(8, seconds=0.6),
        callbacks=list(callbacks),
    )


def save_whisper_ctc(folder):
    torch.manual_seed(0)
    model, processor = with_ctc_head(tiny_whisper(), tiny_processor(), ["the quick brown fox jumps over a lazy dog"])
    model.ctc_head.weight.data.normal_(std=2.0)
    family_of(model).save(model, processor, folder)
    return folder


EVERY = {
    "whisper": save_tiny_whisper,
    "whisper ctc": save_whisper_ctc,
    "wav2vec2": tiny_models.save_wav2vec2,
    "wav2vec2 without mask": lambda folder: tiny_models.save_wav2vec2(folder, norm="group"),
    "hubert": lambda folder: tiny_models.save_wav2vec2(folder, kind="hubert"),
    "w2v-bert": tiny_models.save_wav2vec2_bert,
    "parakeet ctc": tiny_models.save_parakeet,
    "granite 5": tiny_models.save_granite5,
    "lasr": tiny_models.save_lasr,
    "parakeet tdt": lambda folder: tiny_models.save_parakeet(folder, kind="tdt"),
    "parakeet rnnt": tiny_models.save_transducer,
    "nemotron streaming": lambda folder: tiny_models.save_transducer(folder, "nemotron"),
    "nemotron 3.5": lambda folder: tiny_models.save_transducer(folder, "nemotron 3.5"),
    "moonshine": tiny_models.save_moonshine,
    "moonshine streaming": tiny_encoder_decoders.save_moonshine_streaming,
    "speech2text": tiny_encoder_decoders.save_speech2text,
    "speecht5": tiny_encoder_decoders.save_speecht5,
    "two put together": tiny_encoder_decoders.save_two_put_together,
    "canary": tiny_models.save_canary,
    "cohere": tiny_models.save_cohere,
    "seamless": tiny_encoder_decoders.save_seamless,
    "seamless 2": lambda folder: tiny_encoder_decoders.save_seamless(folder, version=2),
    "qwen3-asr": tiny_models.save_qwen3_asr,
    "fun-asr": tiny_audio_llms.save_fun_asr,
    "glm-asr": tiny_audio_llms.save_glm_asr,
    "granite": tiny_audio_llms.save_granite_speech,
    "granite plus": lambda folder: tiny_audio_llms.save_granite_speech(folder, plus=True),
    "vibevoice": tiny_audio_llms.save_vibevoice_asr,
    "moss": tiny_audio_llms.save_moss,
    "nemotron transcribe": tiny_audio_llms.save_nemotron_transcribe,
    "audio flamingo": tiny_audio_llms.save_audio_flamingo,
    "kyutai": tiny_audio_llms.save_kyutai,
    "voxtral": tiny_audio_llms.save_voxtral,
    "voxtral realtime": tiny_audio_llms.save_voxtral_realtime,
}
# Of which the model itself, or its features, take the padding of shorter clips for sound, at least near their end.
HEARS_PADDING = (
    "wav2vec2 without mask",
    "moonshine",
    "moonshine streaming",
    "speech2text",
    "seamless 2",
    "qwen3-asr",
    "granite",
    "granite plus",
)
NEEDS_MISTRAL_COMMON = ("voxtral", "voxtral realtime")
WITHOUT_PEFT = ("granite 5",)  # it ties weights and has no input embeddings, by which PEFT 0.21 looks for tied ones
