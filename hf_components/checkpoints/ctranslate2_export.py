"""Export a Whisper to CTranslate2, the format of faster-whisper, and transcribe with the export to check it."""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_components.checkpoints.ctranslate2_engine import ENCODER, import_ctranslate2
from hf_components.checkpoints.loading import save_processor


def export_whisper(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    folder: str | Path,
    quantization: str,
    *,
    audio_context: str = "full",
    min_audio_context: int = 1000,
) -> None:
    """Write model.bin, config, vocabulary and tokenizer.

    Args:
        model: plain Whisper; for a dynamic context a `DynamicContextWhisper`.
        processor: processor of the same checkpoint.
        folder: folder to write; a temporary checkpoint for the converter is written beside it.
        quantization: type of the stored weights, see `ct2-transformers-converter --quantization`. In a dynamic context
            it is that of the decoder; the encoder is stored in float32 for float32, else in float16.
        audio_context: "full" writes the files of faster-whisper, with preprocessor_config.json; "dynamic" those of
            `ExportedWhisper`, with a folder `encoder`.
        min_audio_context: least mel frames of a dynamic context.
    Raises:
        UserError: ctranslate2 is not installed.
    """
    import_ctranslate2("exporting")
    from ctranslate2.converters import TransformersConverter

    from hf_components.checkpoints.ctranslate2_short import ShortContextConverter, save_encoder

    folder = Path(folder)
    converter = TransformersConverter if audio_context == "full" else ShortContextConverter
    checkpoint = folder.with_name("to_convert")
    model.save_pretrained(checkpoint)
    save_processor(processor, checkpoint)
    # An interrupted run may have left a part of the folder.
    converter(str(checkpoint), copy_files=["tokenizer.json"]).convert(
        str(folder), quantization=quantization, force=True
    )
    shutil.rmtree(checkpoint)
    if audio_context == "full":
        processor.feature_extractor.save_pretrained(folder)  # transformers 5 writes only processor_config.json
    else:
        stored = torch.float32 if quantization == "float32" else torch.float16
        save_encoder(model, processor, folder / ENCODER, stored, min_audio_context)


def transcribe_exported(
    folder: str | Path,
    processor: WhisperProcessor,
    input_features: torch.Tensor,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """Transcripts of an export with a full audio context, on the CPU.

    Args:
        folder: folder of the export.
        processor: processor whose tokenizer's prefix (language, task) is the prompt.
        input_features: log-mel features, `(batch, num_mel_bins, 3000)`.
    """
    import ctranslate2

    model = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=torch.get_num_threads())
    features = ctranslate2.StorageView.from_array(np.ascontiguousarray(input_features.float().cpu().numpy()))
    prompts = [processor.tokenizer.prefix_tokens] * len(input_features)
    # CTranslate2 reserves half of `max_length` for the text before.
    results = model.generate(features, prompts, beam_size=num_beams, max_length=2 * max_new_tokens)
    texts = processor.batch_decode([result.sequences_ids[0] for result in results], skip_special_tokens=True)
    return [text.strip() for text in texts]
