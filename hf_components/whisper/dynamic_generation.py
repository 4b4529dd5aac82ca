"""Whisper's `generate` on short audio.

This file and `moe_generation` override private methods of transformers' Whisper, so its version is checked.
"""

import copy
import logging

import torch
import transformers
from packaging import version
from transformers import LogitsProcessor, WhisperForConditionalGeneration

from .least_risk import LeastRiskMixin
from .mel_frames import OVERHANG, audio_mask, count_real_frames, fit_audio_context, silence_of
from .silence import whole_context

logger = logging.getLogger(__name__)

SUPPORTED = (version.parse("5.23"), version.parse("5.24"))
HOOKS = (
    "_get_input_segment",
    "_get_candidate_generator",
    "_get_logits_processor",
    "_maybe_prepare_encoder_kwargs_for_generation",
    "_postprocess_outputs",
    "_prepare_static_cache",
    "_retrieve_max_frames_and_seek",
    "_stack_split_outputs",
)


def check_transformers(found: str = transformers.__version__, whisper: type = WhisperForConditionalGeneration) -> None:
    """Refuse a transformers without the private methods that are overridden here; warn of an untested newer one."""
    rule = f"this model overrides private methods of Whisper in transformers >= {SUPPORTED[0]}, < {SUPPORTED[1]}"
    remedy = f"pip install 'transformers=={SUPPORTED[0]}.*'"
    lost = [name for name in HOOKS if not hasattr(whisper, name)]
    if version.parse(found) < SUPPORTED[0] or lost:
        raise ImportError(f"{rule}; found {found}{', which lacks ' + lost[0] if lost else ''}. {remedy}")
    if version.parse(found) >= SUPPORTED[1]:
        logger.warning(f"{rule}; found {found}, which was not tested. If transcripts are wrong: {remedy}")


check_transformers()


class TimestampsWithinAudio(LogitsProcessor):
    """Forbids timestamp tokens after the end of the audio.

    Args:
        first: token of 0.00 s; each next one is 0.02 s later.
        ends: greatest number of such steps for each utterance, `(batch,)`.
    """

    def __init__(self, first: int, ends: torch.Tensor):
        self.first = first
        self.ends = ends

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `(rows, vocab_size)`, several neighbouring rows for an utterance with beams."""
        ends = self.ends.to(scores.device).repeat_interleave(scores.shape[0] // len(self.ends))
        tokens = torch.arange(scores.shape[1], device=scores.device)
        return scores.masked_fill(tokens > self.first + ends[:, None], -torch.inf)


class DynamicContextGenerationMixin(LeastRiskMixin):
    """`generate` for a Whisper whose encoder takes short input; see `set_audio_context`."""

    def set_audio_context(self, audio_context: str, min_audio_context: int = 1000) -> None:
        """Set the input of the encoder in `generate`.

        Args:
            audio_context: "dynamic" cuts each batch of segments to its speech, "full" keeps 30 s.
            min_audio_context: least mel frames of a dynamic context.
        """
        if audio_context not in ("dynamic", "full"):
            raise ValueError(f"`audio_context` must be dynamic or full, got {audio_context!r}.")
        self.audio_context = audio_context
        self.min_audio_context = min_audio_context

    def prepare_audio_context(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fit features `(batch, num_mel_bins, frames)`, at most their first 30 s, to this model's audio context."""
        frames = 2 * self.config.max_source_positions
        if self.audio_context == "dynamic":
            longest = int(count_real_frames(input_features, attention_mask).max())
            frames = min(frames, max(longest + longest % 2, self.min_audio_context + self.min_audio_context % 2))
        return fit_audio_context(input_features, frames)

    def generate(
        self,
        input_features=None,
        generation_config=None,
        *args,
        attention_mask=None,
        least_risk: bool | None = None,
        **kwargs,
    ):
        """Stock Whisper's `generate` in this model's audio context.

        In a dynamic context it ends where the audio ends, found from the features if there is no `attention_mask`, and
        no timestamp lies after that. `least_risk` chooses among the texts of a beam search by their risk, see
        `choose_least_risk`; by default only if the generation config says so.
        """
        if least_risk is not None:
            generation_config = copy.deepcopy(generation_config or self.generation_config)
            generation_config.least_risk = least_risk
        given = attention_mask is not None and input_features is not None
        fits = given and attention_mask.shape[-1] == input_features.shape[-1]
        if self.audio_context == "dynamic" and input_features is not None and not fits:
            attention_mask = audio_mask(input_features)
        return super().generate(input_features, generation_config, *args, attention_mask=attention_mask, **kwargs)

    def _retrieve_max_frames_and_seek(self, batch_size, attention_mask, total_input_frames, is_shortform):
        # Stock Whisper hears short audio to the end of its padding.
        if self.audio_context == "dynamic" and attention_mask is not None:
            is_shortform = False
            if batch_size == 1:
                total_input_frames = int(attention_mask.sum())
        return super()._retrieve_max_frames_and_seek(batch_size, attention_mask, total_input_frames, is_shortform)

    def _get_input_segment(self, input_features, seek, seek_num_frames, num_segment_frames, cur_bsz, batch_idx_map):
        # Stock Whisper pads each segment with zeros to 3000 frames.
        if input_features is None:
            return None
        segments = []
        silence = silence_of(input_features)
        overhang = OVERHANG if self.audio_context == "dynamic" else 0
        for row, original in enumerate(batch_idx_map[:cur_bsz]):
            end = seek[original] + seek_num_frames[original] + overhang
            segment = input_features[row : row + 1, :, seek[original] : end]
            segments.append(fit_audio_context(segment, num_segment_frames, silence[row : row + 1]))
        return self.prepare_audio_context(torch.cat(segments))

    def _get_logits_processor(self, generation_config, *args, encoder_input_ids=None, **kwargs):
        processors = super()._get_logits_processor(
            generation_config, *args, encoder_input_ids=encoder_input_ids, **kwargs
        )
        timestamps = getattr(generation_config, "return_timestamps", False) is True
        if timestamps and self.audio_context == "dynamic" and encoder_input_ids is not None:
            first = generation_config.no_timestamps_token_id + 1
            # Before Whisper's own processor, which adds up the probabilities of the timestamps that are left.
            processors.insert(0, TimestampsWithinAudio(first, audio_mask(encoder_input_ids).sum(-1) // 2))
        return processors

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor, model_kwargs, *args):
        # The mask belongs to the whole batch; segments start later, and finished rows leave the batch.
        model_kwargs = {name: value for name, value in model_kwargs.items() if name != "attention_mask"}
        return super()._maybe_prepare_encoder_kwargs_for_generation(inputs_tensor, model_kwargs, *args)

    def _prepare_static_cache(self, cache_implementation, batch_size, max_cache_len, prefill_chunk_size, model_kwargs):
        context = whole_context(model_kwargs["encoder_outputs"], self.config)
        return super()._prepare_static_cache(
            cache_implementation,
            batch_size,
            max_cache_len,
            prefill_chunk_size,
            {**model_kwargs, "encoder_outputs": (context.flatten(0, -3),)},
        )

    def _get_candidate_generator(
        self, generation_config, input_ids, inputs_tensor, *args, assistant_model=None, **kwargs
    ):
        # An assistant without a dynamic context hears the whole window.
        if assistant_model is not None and not hasattr(assistant_model, "prepare_audio_context"):
            inputs_tensor = fit_audio_context(inputs_tensor, 2 * self.config.max_source_positions)
        return super()._get_candidate_generator(
            generation_config, input_ids, inputs_tensor, *args, assistant_model=assistant_model, **kwargs
        )

    def detect_language(self, input_features=None, *args, **kwargs):
        """The same as in stock Whisper, in this model's audio context."""
        if input_features is not None:
            input_features = self.prepare_audio_context(input_features)
        return super().detect_language(input_features, *args, **kwargs)
