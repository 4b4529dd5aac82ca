"""Losses of single utterances on their transcripts, and under each expert of a mixture."""

from collections.abc import Mapping

import datasets
import numpy as np
import torch
from torch import nn
from transformers import WhisperProcessor

from hf_components.asr import family_of
from hf_components.runtime import UserError
from hf_components.whisper import MoeWhisperForConditionalGeneration

IGNORED = -100


def require_transcripts(splits: Mapping[str, datasets.Dataset], corpus: str) -> None:
    """Raise UserError if no utterance has a transcript, which a loss is measured on."""
    if not any(text.strip() for rows in splits.values() for text in rows["text"]):
        count = sum(map(len, splits.values()))
        raise UserError(
            f"a loss is measured on transcripts, but none of the {count} utterances in {corpus} has one; transcribe "
            "them, or find experts by --expert_source embedding"
        )


def labels_of(model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor, rows: datasets.Dataset):
    """Tokens of the transcripts, cut to the positions of the decoder, `(rows, tokens)`; -100 is padding."""
    family = family_of(model)
    longest = model.config.max_target_positions
    tokens = [torch.tensor(family.tokenize(processor, text)[:longest]) for text in rows["text"]]
    return nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=IGNORED).to(model.device)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss per token of each utterance, `(rows,)`, of logits `(rows, tokens, vocab_size)`."""
    losses = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / (labels != IGNORED).sum(1)


class ExpertLosses:
    """The loss of each utterance under each expert, and its number of tokens."""

    def __init__(self, model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor):
        self.model = model
        self.processor = processor

    def __call__(self, features: torch.Tensor, rows: datasets.Dataset) -> list[np.ndarray]:
        """For each clip of log-mel features `(batch, n_mels, frames)`: the loss summed over the tokens of its
        transcript in `rows` for every expert, then the number of tokens, float32 `(experts + 1,)`."""
        features = features.to(self.model.device, self.model.dtype)
        labels = labels_of(self.model, self.processor, rows)
        counts = (labels != IGNORED).sum(1, keepdim=True)
        means, _ = self.model.expert_losses(features, labels)
        return list(torch.cat([means * counts, counts], dim=1).float().cpu().numpy())
