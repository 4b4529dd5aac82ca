"""`generate` of MoE-Whisper: experts that are given, and k rows of the cache per utterance with `mixture="logits"`.

What it changes inside of transformers is in `hooks`.
"""

import torch
from torch import nn
from transformers import LogitsProcessorList
from transformers.utils import logging

from .choosing import ChoosingMixin
from .dynamic_generation import DynamicContextGenerationMixin
from .hooks import MoeHooks
from .router import check_expert_weights
from .timestamps import TimestampsWithinAudio

logger = logging.get_logger(__name__)


class MoeGenerationMixin(MoeHooks, ChoosingMixin, DynamicContextGenerationMixin):
    """`generate` with `expert_weights`, in this model's audio context."""

    def generate(self, input_features=None, generation_config=None, *args, expert_weights=None, **kwargs):
        """Stock Whisper's `generate`, with routing.

        Without `expert_weights` the router chooses for each 30 s window, and finds the padding in the features. With
        them, long-form audio, timestamps and temperature fallback run row by row, because they change the batch
        meanwhile.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, of any length.
            expert_weights: `(batch, experts)`, or one row for all, used instead of the router's choice.
        Raises:
            ValueError: weights without features, of another shape, negative, or not finite; or row by row, something
                other than sequences and segments is asked for.
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
