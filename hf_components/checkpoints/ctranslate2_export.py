"""Export a Whisper to CTranslate2, the format of faster-whisper, and transcribe with the export to check it."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_components.checkpoints.loading import save_processor
from hf_components.runtime import UserError


def export_whisper(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, folder: str | Path, quantization: str
) -> None:
    """Write the files of faster-whisper: model.bin, config, vocabulary, tokenizer, preprocessor_config.json.

    Args:
        model: plain Whisper.
        folder: folder to write; a temporary checkpoint for the converter is written beside it.
        quantization: type of the stored weights, see `ct2-transformers-converter --quantization`.
    Raises:
        UserError: ctranslate2 is not installed.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        raise UserError('exporting needs CTranslate2: pip install "underheard[export]"')
    from ctranslate2.converters import TransformersConverter

    checkpoint = Path(folder).with_name("to_convert")
    model.save_pretrained(checkpoint)
    save_processor(processor, checkpoint)
    TransformersConverter(str(checkpoint), copy_files=["tokenizer.json"]).convert(
        str(folder), quantization=quantization
    )
    processor.feature_extractor.save_pretrained(folder)  # transformers 5 writes only processor_config.json
    shutil.rmtree(checkpoint)


def transcribe_exported(
    folder: str | Path, processor: WhisperProcessor, input_features: torch.Tensor, max_new_tokens: int
) -> list[str]:
    """Greedy transcripts of an export, on the CPU.

    Args:
        folder: folder of the export.
        processor: processor whose tokenizer's prefix (language, task) is the prompt.
        input_features: log-mel features, `(batch, num_mel_bins, 3000)`.
    """
    import ctranslate2

    model = ctranslate2.models.Whisper(str(folder), device="cpu")
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(input_features.float().cpu().numpy()))
    prompts = [processor.tokenizer.prefix_tokens] * len(input_features)
    # CTranslate2 reserves half of `max_length` for the text before.
    results = model.generate(features, prompts, beam_size=1, max_length=2 * max_new_tokens)
    texts = processor.batch_decode([result.sequences_ids[0] for result in results], skip_special_tokens=True)
    return [text.strip() for text in texts]
