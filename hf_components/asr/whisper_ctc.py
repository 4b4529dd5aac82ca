"""Whisper's encoder with a CTC head, which is trained here; see `--head ctc` of finetune_asr."""

import torch

from hf_components.asr.ctc import Ctc
from hf_components.asr.output_frames import output_lengths
from hf_components.asr.whisper import Whisper
from hf_components.whisper import WhisperForCTC


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
        return output_lengths(model, frames).tolist()

    def packed(self, model_type, language):
        return {"kind": "whisper_ctc", "class": WhisperForCTC.__name__}
