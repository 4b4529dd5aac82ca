"""The loss of Whisper on labels, the same however a batch is divided."""

import torch
from torch import nn
from transformers import WhisperConfig


def token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy: sum over tokens divided by the tokens of the whole accumulated global batch.

    Args:
        logits: `(rows, tokens, vocab_size)`.
        labels: `(rows, tokens)`, -100 is ignored.
        num_items_in_batch: tokens of the accumulated global batch, counted by `Trainer`; those of this batch if None.
    """
    loss = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=-100, reduction="sum"
    )
    return loss / (num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())


def one_row_each(rows: int, *values: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Tensors of one row as `rows` equal ones, since one text may be for several utterances; others unchanged.

    Args:
        values: `(1 or rows, ...)`, or None.
    Returns:
        `(rows, ...)`, or None.
    """
    return tuple(
        value.expand(rows, *value.shape[1:]) if value is not None and value.shape[0] == 1 else value
        for value in values
    )


def labels_to_decoder_input(labels: torch.Tensor, config: WhisperConfig, longest: int | None = None) -> torch.Tensor:
    """The decoder's input: the start token, then the labels; -100 becomes padding.

    Args:
        labels: `(rows, tokens)`, padded with -100.
        longest: positions of the decoder, `config.max_target_positions` if None.
    Returns:
        `(rows, tokens)`.
    Raises:
        ValueError: the labels are longer.
    """
    longest = config.max_target_positions if longest is None else longest
    if labels.shape[1] > longest:
        raise ValueError(f"`labels` must have at most {longest} tokens, got {labels.shape[1]}.")
    start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, config.pad_token_id)
