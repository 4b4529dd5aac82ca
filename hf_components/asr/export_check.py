"""Whether an export to CTranslate2 writes what the Whisper behind it writes."""

from pathlib import Path

import datasets
from accelerate import PartialState
from transformers import WhisperProcessor

from hf_components.asr.transcriber import transcribe
from hf_components.checkpoints import ExportedWhisper, language_of, transcribe_exported
from hf_components.scoring import score
from hf_components.speech import log_mel, waveforms
from hf_components.whisper import DynamicContextWhisper


def compare_with_export(
    model: DynamicContextWhisper,
    processor: WhisperProcessor,
    folder: Path,
    corpus: datasets.Dataset,
    *,
    max_new_tokens: int,
    language: str | None = None,
) -> dict:
    """Transcribe rows with a Whisper, by all processes, and with its export, by the main process.

    Args:
        model: the Whisper as it was exported, in the audio context of the export.
        folder: folder of the export.
        language: language code of a multilingual model; None for the one saved with it.
    Returns:
        `clips`, how many of them are `equal`, `wer_original`, `wer_export` and `wer_between`; other processes than the
        main one get nothing.
    """
    decoding = {"max_new_tokens": max_new_tokens, "num_beams": 1}
    original = transcribe(model, processor, corpus, description="original", **decoding)
    if not PartialState().is_main_process:
        return {}
    if model.audio_context == "dynamic":
        engine = ExportedWhisper(folder, language)
        exported = transcribe(engine, processor, corpus, description="export", **decoding)
    else:
        extractor = processor.feature_extractor
        features = log_mel(extractor, waveforms(corpus), extractor.nb_max_frames)
        exported = transcribe_exported(folder, processor, features, max_new_tokens)
    references = corpus["text"][:]
    scored = {"num_bootstrap": 0, "language": language_of(model)}
    return {
        "clips": len(corpus),
        "equal": sum(a == b for a, b in zip(original, exported, strict=True)),
        "wer_original": score(original, references, **scored)["wer"],
        "wer_export": score(exported, references, **scored)["wer"],
        "wer_between": score(exported, original, **scored)["wer"],
    }
