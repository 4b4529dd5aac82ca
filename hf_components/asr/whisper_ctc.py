"""Whisper's encoder with a CTC head, which is trained here; see `--head ctc` of finetune_asr."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr.ctc import Ctc
from hf_components.asr.ctc_from_scratch import character_processor
from hf_components.asr.whisper import Whisper
from hf_components.runtime import UserError
from hf_components.whisper import DynamicContextWhisper, WhisperForCTC


class WhisperCtc(Ctc):
    """`WhisperForCTC`: features as for a Whisper, decoded as CTC."""

    name = "Whisper CTC"
    model_classes = {"whisper_ctc": WhisperForCTC}
    has_mel_features = True
    lora_layers = Whisper.lora_layers

    def heard_seconds(self, model, seconds):
        return max(seconds, model.config.min_audio_context / 100)

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return Whisper().inputs(processor, waveforms, full_context=full_context)

    def prepare_for_training(self, model, *, freeze=None, from_scratch=False):
        super().prepare_for_training(model, freeze=freeze)
        model.encoder.embed_positions.requires_grad_(False)  # fixed sinusoids, as in Whisper's training

    def count_frames(self, model, processor, seconds):
        frames = torch.tensor([int(100 * value) for value in seconds])
        return model._get_subsampling_output_length(frames).tolist()

    def packed(self, model_type, language):
        return None  # transformers alone does not have the model


def with_ctc_head(
    model: PreTrainedModel, processor: ProcessorMixin, texts: list[str]
) -> tuple[WhisperForCTC, ProcessorMixin]:
    """A Whisper's encoder with a new, untrained CTC head, and the processor for it.

    Args:
        model, processor: a Whisper.
        texts: transcripts of the training data, whose characters become the vocabulary.
    Raises:
        UserError: the model is no plain Whisper, or the texts have no characters.
    """
    if not isinstance(model, DynamicContextWhisper):
        kind = type(model).__name__
        raise UserError(f"--head ctc goes on the encoder of a plain Whisper, {model.name_or_path} is a {kind}")
    processor = character_processor(texts, processor.feature_extractor)
    tokenizer = processor.tokenizer
    window = 2 * model.config.max_source_positions
    context = {"min_audio_context": window if model.audio_context == "full" else model.min_audio_context}
    headed = WhisperForCTC.from_whisper(model, len(tokenizer), tokenizer.pad_token_id, **context)
    headed.name_or_path = headed.config.name_or_path = model.name_or_path  # checkpoints name what they started from
    return headed, processor
