"""An exported Whisper, which CTranslate2 runs, as a family of recognisers."""

from hf_components.asr.whisper import Whisper, longest_text
from hf_components.checkpoints import ExportedWhisper
from hf_components.runtime import UserError


class WhisperInCTranslate2(Whisper):
    """`ExportedWhisper`. Its features are those of a Whisper; it cannot be trained."""

    name = "exported Whisper"
    model_classes = {}
    lora_layers = ()

    def heard_seconds(self, model, seconds):
        return max(seconds, model.config.min_audio_context / 100)

    def decode(self, model: ExportedWhisper, processor, inputs, *, max_new_tokens, num_beams):
        longest_text(model.config, max_new_tokens)
        tokens = model.generate(inputs["input_features"], max_new_tokens=max_new_tokens, num_beams=num_beams)
        return processor.batch_decode(tokens, skip_special_tokens=True)

    def words(self, model, processor, waveforms, texts, *, language=None):
        raise UserError(
            f"{model.name_or_path} is an export, which does not tell the confidence of its words; take the "
            "checkpoint that it was made from"
        )
