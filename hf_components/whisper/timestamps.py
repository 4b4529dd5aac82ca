"""Timestamps of Whisper: none lies after the end of the audio."""

import torch
from transformers import LogitsProcessor


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
