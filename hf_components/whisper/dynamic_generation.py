"""Whisper's `generate` on short audio; what it changes inside of transformers is in `hooks`."""

import copy

import torch

from .hooks import DynamicContextHooks
from .mel_frames import audio_mask, count_real_frames, fit_audio_context


class DynamicContextGenerationMixin(DynamicContextHooks):
    """`generate` for a Whisper whose encoder takes short input; see `set_audio_context`."""

    def set_audio_context(self, audio_context: str, min_audio_context: int = 1000) -> None:
        """Set the input of the encoder in `generate`.

        Args:
            audio_context: "dynamic" cuts each batch of segments to its speech, "full" keeps 30 s.
            min_audio_context: least mel frames of a dynamic context, 10 ms each.
        Raises:
            ValueError: the context is neither.
        """
        if audio_context not in ("dynamic", "full"):
            raise ValueError(f"`audio_context` must be dynamic or full, got {audio_context!r}.")
        self.audio_context = audio_context
        self.min_audio_context = min_audio_context

    def prepare_audio_context(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fit features, at most their first 30 s, to this model's audio context.

        Args:
            input_features: `(batch, num_mel_bins, any)`.
            attention_mask: `(batch, any)`, 1 for audio; found from the features if None.
        Returns:
            `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
        """
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
        no timestamp lies after that.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, of any length.
            attention_mask: `(batch, frames)`, 1 for audio.
            least_risk: choose among the texts of a beam search by their risk, see `choose_least_risk`; by default only
                if the generation config says so.
        """
        if least_risk is not None:
            generation_config = copy.deepcopy(generation_config or self.generation_config)
            generation_config.least_risk = least_risk
        given = attention_mask is not None and input_features is not None
        fits = given and attention_mask.shape[-1] == input_features.shape[-1]
        if self.audio_context == "dynamic" and input_features is not None and not fits:
            attention_mask = audio_mask(input_features)
        return super().generate(input_features, generation_config, *args, attention_mask=attention_mask, **kwargs)

    def detect_language(self, input_features=None, *args, **kwargs):
        """The same as in stock Whisper, in this model's audio context."""
        if input_features is not None:
            input_features = self.prepare_audio_context(input_features)
        return super().detect_language(input_features, *args, **kwargs)
