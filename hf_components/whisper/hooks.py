"""The private methods of transformers' Whisper that this package touches; no other file overrides or calls one.

They may change with any release of transformers, so its version is checked when this file is imported.
"""

import copy
import logging
from collections.abc import Callable

import torch
import transformers
from packaging import version
from transformers import Cache, EncoderDecoderCache, PreTrainedModel, WhisperForConditionalGeneration, WhisperModel

from .context_attention import BeamCache
from .least_risk import keep_least_risk
from .mel_frames import OVERHANG, audio_mask, fit_audio_context, silence_of
from .silence import whole_context
from .timestamps import TimestampsWithinAudio

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
    "_beam_search",
)


def check_transformers(found: str = transformers.__version__, whisper: type = WhisperForConditionalGeneration) -> None:
    """Refuse a transformers without the private methods that are overridden here; warn of an untested newer one.

    Args:
        found: its version.
        whisper: its model, which has these methods.
    Raises:
        ImportError: it is older than the supported versions, or lacks a method.
    """
    rule = f"this model overrides private methods of Whisper in transformers >= {SUPPORTED[0]}, < {SUPPORTED[1]}"
    remedy = f"pip install 'transformers=={SUPPORTED[0]}.*'"
    lost = [name for name in HOOKS if not hasattr(whisper, name)]
    if version.parse(found) < SUPPORTED[0] or lost:
        raise ImportError(f"{rule}; found {found}{', which lacks ' + lost[0] if lost else ''}. {remedy}")
    if version.parse(found) >= SUPPORTED[1]:
        logger.warning(f"{rule}; found {found}, which was not tested. If transcripts are wrong: {remedy}")


check_transformers()


def has_audio_context(model: PreTrainedModel) -> bool:
    """Whether a model is a Whisper of this package, which may be wrapped, or have brought its own copy of the code."""
    return hasattr(model, "prepare_audio_context")


def has_experts(model: PreTrainedModel | None) -> bool:
    """Whether a model is a mixture of this package, see `has_audio_context`."""
    return hasattr(model, "routed_layers")


def mask_features(
    model: WhisperModel, input_features: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """SpecAugment (Park et al. 2019, arXiv 1904.08779) as the configuration says, in training only, in place.

    Args:
        input_features: `(batch, num_mel_bins, frames)`.
        attention_mask: `(batch, frames)`, 1 for audio; None: there is no padding.
    Returns:
        the same features, masked.
    """
    return model._mask_input_features(input_features, attention_mask=attention_mask)


def beam_cache(model: PreTrainedModel, cache: Cache | None, beams: int) -> BeamCache | None:
    """The cache of a search whose beams share what they hear, or None if they cannot."""
    if (
        getattr(model.config, "mixture", None) == "logits"
    ):  # the rows of a beam are its experts, which hear differently
        return None
    return BeamCache.of(cache, beams)


class DynamicContextHooks:
    """Whisper's `generate` in the model's audio context, see `DynamicContextGenerationMixin`."""

    def _retrieve_max_frames_and_seek(self, batch_size, attention_mask, total_input_frames, is_shortform):
        # Stock Whisper sees short audio to the end of its padding.
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
        # An assistant without a dynamic context sees the whole window.
        if assistant_model is not None and not has_audio_context(assistant_model):
            inputs_tensor = fit_audio_context(inputs_tensor, 2 * self.config.max_source_positions)
        return super()._get_candidate_generator(
            generation_config, input_ids, inputs_tensor, *args, assistant_model=assistant_model, **kwargs
        )

    def _beam_search(self, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
        shared = beam_cache(self, model_kwargs.get("past_key_values"), generation_config.num_beams)
        if shared is not None:  # its truth is whether it has layers
            model_kwargs["past_key_values"] = shared
        # Whisper's `generate` has no other way to several texts per clip.
        one = (generation_config.num_return_sequences or 1) == 1 and not generation_config.do_sample
        chooses = getattr(generation_config, "least_risk", False) and one
        asked = generation_config
        if chooses:
            asked = copy.copy(generation_config)
            asked.num_return_sequences = asked.num_beams
            asked.return_dict_in_generate = asked.output_scores = True
        found = super()._beam_search(input_ids, logits_processor, stopping_criteria, asked, **model_kwargs)
        if chooses:
            found = keep_least_risk(found, generation_config, prompt=input_ids.shape[1])
        if shared is not None and generation_config.return_dict_in_generate:
            found.past_key_values = shared.copied()
        return found


class MoeHooks:
    """Whisper's `generate` with experts: with `mixture="logits"` the cache has k rows for an utterance or beam."""

    def _get_candidate_generator(
        self,
        generation_config,
        input_ids,
        inputs_tensor,
        logits_processor,
        model_kwargs,
        assistant_model=None,
        **kwargs,
    ):
        # An assistant that is a mixture routes in its encoder, once; any other knows no experts.
        if not has_experts(assistant_model):
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "expert_weights"}
        generator = super()._get_candidate_generator(
            generation_config,
            input_ids,
            inputs_tensor,
            logits_processor,
            model_kwargs,
            assistant_model=assistant_model,
            **kwargs,
        )
        getattr(generator, "assistant_kwargs", {}).pop("expert_weights", None)
        return generator

    def _postprocess_outputs(self, seek_outputs, generation_config, **kwargs):
        # Stock Whisper takes one row of the cache per utterance or beam, where each active expert has one.
        cache = seek_outputs.get("past_key_values") if isinstance(seek_outputs, dict) else None
        if cache is not None and self.config.mixture == "logits":
            beams = len(seek_outputs["sequences"]) * (generation_config.num_beams or 1)
            _reshape_cache(cache, lambda rows: rows.unflatten(0, (beams, -1)))
        return super()._postprocess_outputs(seek_outputs=seek_outputs, generation_config=generation_config, **kwargs)

    def _stack_split_outputs(self, seek_outputs, model_output_type, device, kwargs):
        outputs = super()._stack_split_outputs(seek_outputs, model_output_type, device, kwargs)
        cache = outputs.get("past_key_values")
        if cache is not None and self.config.mixture == "logits":
            _reshape_cache(cache, lambda rows: rows.flatten(0, 1))
        return outputs

    def _reorder_cache(self, past_key_values, beam_idx: torch.Tensor):
        # With mixture="logits" each beam has k neighbouring rows of the cache.
        rows = past_key_values.self_attention_cache.layers[0].keys.shape[0]
        k = rows // beam_idx.shape[0]
        past_key_values.reorder_cache((beam_idx[:, None] * k + torch.arange(k, device=beam_idx.device)).flatten())
        return past_key_values


def _reshape_cache(cache: EncoderDecoderCache, reshape: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for layer in (*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers):
        layer.keys = reshape(layer.keys)
        layer.values = reshape(layer.values)
