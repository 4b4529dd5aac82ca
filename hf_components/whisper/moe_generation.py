"""`generate` of MoE-Whisper: experts that are given, and k rows of the cache per utterance with `mixture="logits"`.

It overrides private methods of transformers' Whisper, see `dynamic_generation`.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import EncoderDecoderCache, LogitsProcessorList
from transformers.utils import logging

from .choosing import ChoosingMixin
from .dynamic_generation import DynamicContextGenerationMixin, TimestampsWithinAudio
from .router import check_expert_weights

logger = logging.get_logger(__name__)


class MoeGenerationMixin(ChoosingMixin, DynamicContextGenerationMixin):
    """`generate` with `expert_weights`, in this model's audio context."""

    def generate(self, input_features=None, generation_config=None, *args, expert_weights=None, **kwargs):
        """Stock Whisper's `generate`, with `expert_weights (batch, experts)` instead of the router's choice.

        Without them the router chooses for each 30 s window, and finds the padding in the features. With them,
        long-form audio, timestamps and temperature fallback run row by row, because they change the batch meanwhile.
        """
        if expert_weights is None and self.config.mixture == "choose" and input_features is not None:
            if not args and self._can_choose(input_features, generation_config, kwargs):
                mask = kwargs.pop("attention_mask", None)
                return self._generate_and_choose(input_features, mask, generation_config, kwargs)
            logger.warning_once(
                'mixture="choose" compares texts of up to 30 s without timestamps, temperatures or other outputs; '
                "here the plain model transcribes."
            )
        if expert_weights is None:
            return super().generate(input_features, generation_config, *args, **kwargs)
        if input_features is None:
            raise ValueError("`expert_weights` need `input_features`: encoder outputs are already routed.")
        rows = input_features.shape[0]
        expert_weights = check_expert_weights(expert_weights, torch.empty(rows, self.config.num_experts))
        if rows > 1:
            config = generation_config or self.generation_config
            is_long, changes = self._changes_batch(input_features, config, kwargs)
            if changes:
                return self._generate_by_row(
                    input_features, (generation_config, *args), expert_weights, is_long, kwargs
                )
            if (last := getattr(config, "no_timestamps_token_id", None)) is not None:
                # A timestamp would end the segment of its row: the others would leave the batch, with their experts.
                none = TimestampsWithinAudio(last + 1, torch.full((rows,), -1))
                kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or ()), none])
            repeats = kwargs.get("num_return_sequences") or config.num_return_sequences or 1
            expert_weights = expert_weights.repeat_interleave(repeats, dim=0)  # stock repeats only the features
        return super().generate(input_features, generation_config, *args, expert_weights=expert_weights, **kwargs)

    def _changes_batch(self, input_features, config, kwargs) -> tuple[bool, bool]:
        """Whether the audio is longer than one window, and whether `generate` will take rows out of the batch."""
        temperature = kwargs.get("temperature")
        is_long = input_features.shape[-1] > 2 * self.config.max_source_positions
        falls_back = isinstance(temperature, (list, tuple)) and len(temperature) > 1
        has_timestamps = kwargs.get("return_timestamps")
        if has_timestamps is None:  # only Whisper's own configurations have this attribute
            has_timestamps = getattr(config, "return_timestamps", False)
        return is_long, bool(is_long or falls_back or has_timestamps)

    def _can_choose(self, input_features, generation_config, kwargs) -> bool:
        config = generation_config or self.generation_config
        asked = ("return_dict_in_generate", "return_segments", "return_token_timestamps", "num_return_sequences")
        more = any(kwargs.get(name) for name in asked) or config.return_dict_in_generate
        samples = kwargs.get("do_sample") or config.do_sample or kwargs.get("assistant_model") is not None
        return not (more or samples or self._changes_batch(input_features, config, kwargs)[1])

    def _generate_by_row(self, input_features, args, expert_weights, is_long, kwargs):
        mask = kwargs.pop("attention_mask", None)
        results = []
        if is_long and kwargs.get("return_timestamps") is None:
            kwargs["return_timestamps"] = True  # stock does so for a long batch; a single row may be short
        for row in range(input_features.shape[0]):
            features = input_features[row : row + 1]
            if is_long and mask is not None:
                features = features[..., : int(mask[row].sum())]
            results.append(self.generate(features, *args, expert_weights=expert_weights[row : row + 1], **kwargs))
        sequences = [result["sequences"] if isinstance(result, dict) else result for result in results]
        longest = max(sequence.shape[1] for sequence in sequences)
        pad = self.generation_config.pad_token_id
        padded = torch.cat(
            [nn.functional.pad(sequence, (0, longest - sequence.shape[1]), value=pad) for sequence in sequences]
        )
        if not isinstance(results[0], dict):
            return padded
        if not all(set(result) <= {"sequences", "segments"} for result in results):
            raise ValueError(
                "`expert_weights` with long-form audio or temperature fallback returns sequences and segments only; "
                f"got {sorted(results[0])}. Generate row by row for more."
            )
        return {"sequences": padded, "segments": [segments for result in results for segments in result["segments"]]}

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
        if not hasattr(assistant_model, "routed_layers"):
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
