"""Whisper, and MoE-Whisper, whose configuration has `num_experts`."""

import logging

import torch

from hf_components.asr.family import Family, place
from hf_components.checkpoints import load_moe_whisper, load_whisper, prompt_language
from hf_components.runtime import UserError
from hf_components.speech import count_mel_frames, log_mel, plain_text
from hf_components.whisper import DynamicContextWhisper

# Whisper's `generate` calls itself with arguments that transformers warns about, whatever the caller gives.
OF_NO_USE = ("Both `max_new_tokens`", "Passing `generation_config` together")
logging.getLogger("transformers.generation.utils").addFilter(lambda note: not note.getMessage().startswith(OF_NO_USE))

TASK_TOKENS = 4  # at most: start, language, task, no timestamps


class Whisper(Family):
    """`DynamicContextWhisper` and `MoeWhisperForConditionalGeneration`, with the audio context of the checkpoint."""

    name = "Whisper"
    model_classes = {"whisper": DynamicContextWhisper}
    has_mel_features = True

    def load(self, name_or_path, fields, language=None, dtype=torch.float32):
        if "num_experts" not in fields:
            return load_whisper(name_or_path, language, dtype)
        model, processor = load_moe_whisper(name_or_path, dtype)
        prompt_language(model, processor, language)
        return model, processor

    def heard_seconds(self, model, seconds):
        return self.longest_seconds if model.audio_context == "full" else max(seconds, model.min_audio_context / 100)

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        extractor = processor.feature_extractor
        features = log_mel(extractor, waveforms, extractor.nb_max_frames if full_context else None)
        real_frames = torch.tensor([count_mel_frames(extractor, len(clip)) for clip in waveforms])
        return {
            "input_features": features,
            "attention_mask": (torch.arange(features.shape[-1]) < real_frames[:, None]).long(),
        }

    def decode(
        self, model, processor, inputs, *, max_new_tokens, num_beams, expert_weights: torch.Tensor | None = None
    ):
        """The same as in `Family`; `expert_weights (batch, experts)` replaces the router of a MoE-Whisper."""
        longest = model.config.max_target_positions - TASK_TOKENS
        if not 1 <= max_new_tokens <= longest:
            raise UserError(
                f"max_new_tokens must lie in [1, {longest}] with this decoder's positions, got {max_new_tokens}"
            )
        routing = {} if expert_weights is None else {"expert_weights": expert_weights.to(model.device)}
        features = place(inputs, model)[
            "input_features"
        ]  # the model finds the padding in the features, without a mask
        search = {} if num_beams is None else {"num_beams": num_beams}
        tokens = model.generate(features, max_new_tokens=max_new_tokens, **search, **routing)
        return processor.batch_decode(tokens, skip_special_tokens=True)

    def tokenize(self, processor, text):
        """Ids of task tokens, text and end token, without the start token, which is the decoder's first input.

        The text is plain: the name of a special token in it would become that token.
        """
        return processor.tokenizer(plain_text(text)).input_ids[1:]
