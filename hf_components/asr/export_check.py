"""Whether an export writes what the Whisper behind it writes."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
from accelerate import PartialState
from transformers import WhisperProcessor

from hf_components.asr.transcriber import transcribe
from hf_components.checkpoints import ExportedWhisper, is_export, language_of, transcribe_exported
from hf_components.scoring import score
from hf_components.speech import log_mel, waveforms
from hf_components.whisper import DynamicContextWhisper

logger = logging.getLogger(__name__)


def compare_with_export(
    model: DynamicContextWhisper,
    processor: WhisperProcessor,
    corpus: datasets.Dataset,
    exports: Mapping[str, Callable[[datasets.Dataset], list[str]]],
    *,
    max_new_tokens: int,
) -> dict[str, dict]:
    """Transcribe rows with a Whisper, by all processes, and with its export, by the main process.

    Args:
        model: the Whisper as it was exported, in the audio context of the export.
        corpus: rows to transcribe.
        exports: name -> what transcribes rows, greedily, with the export.
    Returns:
        for each name `clips`, how many of them are `equal`, `wer_original`, `wer_export`, `wer_between`, and the
        `seconds` that the export took; other processes than the main one get nothing. A difference is logged.
    """
    original = transcribe(model, processor, corpus, max_new_tokens=max_new_tokens, num_beams=1, description="original")
    if not PartialState().is_main_process:
        return {}
    references = corpus["text"][:]
    scored = {"num_bootstrap": 0, "language": language_of(model)}
    found = {}
    for name, texts_of_export in exports.items():
        start = time.perf_counter()
        exported = texts_of_export(corpus)
        found[name] = {
            "clips": len(corpus),
            "equal": sum(a == b for a, b in zip(original, exported, strict=True)),
            "wer_original": score(original, references, **scored)["wer"],
            "wer_export": score(exported, references, **scored)["wer"],
            "wer_between": score(exported, original, **scored)["wer"],
            "seconds": round(time.perf_counter() - start, 3),
        }
        if different := len(corpus) - found[name]["equal"]:
            text = "%s: %d of %d clips are transcribed differently by the export, %.1f %% of the words"
            logger.warning(text, name, different, len(corpus), 100 * found[name]["wer_between"])
    return found


def texts_of_ctranslate2(
    folder: Path, processor: WhisperProcessor, corpus: datasets.Dataset, language: str | None, max_new_tokens: int
) -> list[str]:
    """Greedy transcripts of rows by an export to CTranslate2, of either audio context.

    Args:
        folder: folder of the export.
        language: language code of a multilingual model; None for the one saved with it.
    """
    if is_export(folder):
        engine = ExportedWhisper(folder, language)
        decoding = {"max_new_tokens": max_new_tokens, "num_beams": 1}
        return transcribe(engine, processor, corpus, description="export", **decoding)
    extractor = processor.feature_extractor
    features = log_mel(extractor, waveforms(corpus), extractor.nb_max_frames)
    return transcribe_exported(folder, processor, features, max_new_tokens)
