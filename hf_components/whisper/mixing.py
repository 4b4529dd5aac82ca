"""Several experts for one utterance: their weights, probabilities, losses, and what is shown of them."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import nn


def mix_probabilities(log_probs: torch.Tensor, mixture_weights: torch.Tensor) -> torch.Tensor:
    """Log of the weighted sum of the experts' probabilities.

    Args:
        log_probs: `(batch, k, tokens, vocab_size)`.
        mixture_weights: `(batch, k)`.
    Returns:
        `(batch, tokens, vocab_size)`.
    """
    # Pair by pair: this reads the vocabulary once, logsumexp five times. The clamp avoids infinities without gradient.
    log_weights = mixture_weights.log().clamp(min=torch.finfo(torch.float32).min)
    return reduce(torch.logaddexp, (log_probs + log_weights[:, :, None, None]).unbind(1))


def mean_of_experts(
    layers: Sequence[torch.Tensor] | None, mixture_weights: torch.Tensor
) -> tuple[torch.Tensor, ...] | None:
    """The mean over k neighbouring rows, one for each active expert of an utterance, by the experts' weights.

    Args:
        layers: tensors `(batch * k, ...)`; those of `batch` rows are the same for all experts.
        mixture_weights: `(batch, k)`.
    Returns:
        tensors `(batch, ...)`; what is given if there are none.
    """
    if not layers or layers[0] is None:
        return layers
    shares = mixture_weights / mixture_weights.sum(-1, keepdim=True)
    batch, k = shares.shape
    return tuple(
        layer
        if len(layer) == batch and k > 1
        else torch.einsum("bk,bk...->b...", shares.to(layer.dtype), layer.unflatten(0, (batch, k)))
        for layer in layers
    )


def summed_losses(log_probs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each expert's loss, summed over the tokens of each row.

    Args:
        log_probs: natural logarithms of probabilities `(batch, k, tokens, vocab_size)`.
        labels: `(batch, tokens)`, -100 is ignored.
    Returns:
        `(batch, k)`.
    """
    targets = labels[:, None].expand(log_probs.shape[:-1])
    losses = nn.functional.nll_loss(log_probs.flatten(0, 2), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(targets.shape).sum(-1)
