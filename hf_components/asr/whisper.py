"""Whisper, and MoE-Whisper, whose configuration has `num_experts`."""

import logging
from collections.abc import Collection, Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, WhisperConfig

from hf_components.asr.family import Family, place
from hf_components.checkpoints import check_savable, load_moe_whisper, load_whisper, prompt_language, save_whisper
from hf_components.runtime import UserError
from hf_components.speech import count_mel_frames, log_mel, plain_text
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration
from hf_components.whisper.configuration_moe_whisper import TARGETS

# Whisper's `generate` calls itself with arguments that transformers warns about, whatever the caller gives.
OF_NO_USE = ("Both `max_new_tokens`", "Passing `generation_config` together")
logging.getLogger("transformers.generation.utils").addFilter(lambda note: not note.getMessage().startswith(OF_NO_USE))

TASK_TOKENS = 4  # at most: start, language, task, no timestamps


class Whisper(Family):
    """`DynamicContextWhisper` and `MoeWhisperForConditionalGeneration`, with the audio context of the checkpoint."""

    name = "Whisper"
    model_classes = {"whisper": DynamicContextWhisper}
    has_mel_features = True
    lora_layers = TARGETS

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
        self,
        model,
        processor,
        inputs,
        *,
        max_new_tokens,
        num_beams,
        expert_weights: torch.Tensor | None = None,
        said: Sequence[Sequence[int]] | None = None,
        least_risk: bool = True,
    ):
        """The same as in `Family`.

        Args:
            expert_weights: weights that replace the router of a MoE-Whisper, `(batch, experts)`.
            said: tokens that each text starts with, because the clip starts with a known sentence; the texts are
                returned without them.
            least_risk: of the beams take the text of least risk, not the most probable one.
        """
        longest = longest_text(model.config, max_new_tokens)
        routing = {} if expert_weights is None else {"expert_weights": expert_weights.to(model.device)}
        features = place(inputs, model)[
            "input_features"
        ]  # the model finds the padding in the features, without a mask
        search = {} if num_beams is None else {"num_beams": num_beams}
        room = max_new_tokens
        if said is not None:
            room = min(longest, max_new_tokens + max(map(len, said)))
            search["logits_processor"] = LogitsProcessorList([SaidBefore(said)])
        tokens = model.generate(features, max_new_tokens=room, least_risk=least_risk, **search, **routing)
        if said is not None:
            tokens = without_said(tokens.tolist(), said, set(processor.tokenizer.all_special_ids), max_new_tokens)
        return processor.batch_decode(tokens, skip_special_tokens=True)

    def packed(self, model_type, language):
        return {"kind": "whisper", "class": "AutoModelForSpeechSeq2Seq"}

    def tokenize(self, processor, text):
        """Ids of task tokens, text and end token, without the start token, which is the decoder's first input.

        The text is plain: the name of a special token in it would become that token.
        """
        return processor.tokenizer(plain_text(text)).input_ids[1:]

    def as_teacher(self, model, batch):
        """The same features in the audio context of this model."""
        features = model.prepare_audio_context(batch["input_features"], batch["attention_mask"])
        more = features.shape[-1] - batch["attention_mask"].shape[-1]
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, more))
        return {"input_features": features, "attention_mask": mask, "labels": batch["labels"], "use_cache": False}

    def check_savable(self, model, processor):
        if isinstance(model, MoeWhisperForConditionalGeneration):
            raise UserError(
                f"{model.name_or_path} mixes experts: recipes/train_moe_whisper.py trains them, and "
                "recipes/merge_moe_whisper.py makes one plain Whisper of them"
            )
        check_savable(model, processor)

    def save(self, model, processor, folder):
        if isinstance(model, MoeWhisperForConditionalGeneration):
            super().save(model, processor, folder)
        else:
            save_whisper(model, processor, folder)

    def prepare_for_training(self, model, *, freeze=None, from_scratch=False):
        super().prepare_for_training(model, freeze=freeze)
        self.encoder(model).embed_positions.requires_grad_(False)  # fixed sinusoids, as in Whisper's training

    def encoder(self, model):
        return model.model.encoder

    def longest_labels(self, model):
        return model.config.max_target_positions

    def tokenize_text(self, processor, text) -> list[int]:
        """Ids of a text alone."""
        return processor.tokenizer(plain_text(text), add_special_tokens=False).input_ids


def longest_text(config: WhisperConfig, max_new_tokens: int) -> int:
    """Tokens that a decoder has positions for. Raises UserError if more are asked for."""
    longest = config.max_target_positions - TASK_TOKENS
    if not 1 <= max_new_tokens <= longest:
        raise UserError(
            f"max_new_tokens must lie in [1, {longest}] with this decoder's positions, got {max_new_tokens}"
        )
    return longest


class SaidBefore(LogitsProcessor):
    """Lets each text of a batch start with given tokens; after them the model writes on.

    Args:
        said: tokens of each row; they may have different lengths.
    """

    def __init__(self, said: Sequence[Sequence[int]]):
        self.said = said
        self.begin = 0

    def set_begin_index(self, index: int) -> None:
        """Whisper's `generate` tells where the text starts, after the tokens of the task."""
        self.begin = index

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.begin
        beams = len(input_ids) // len(self.said)
        for row in range(len(input_ids)):
            tokens = self.said[row // beams]
            if step < len(tokens):
                scores[row] = -torch.inf
                scores[row, tokens[step]] = 0
        return scores


def without_said(
    written: Sequence[Sequence[int]], said: Sequence[Sequence[int]], special: Collection[int], most: int
) -> list[list[int]]:
    """At most `most` tokens of each text, without special ones and without those that `SaidBefore` gave."""
    return [
        [token for token in tokens if token not in special][len(known) : len(known) + most]
        for tokens, known in zip(written, said, strict=True)
    ]
