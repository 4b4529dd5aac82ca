"""Agreement of a model with itself: the same utterances under two different masks."""

import torch


def symmetric_kl(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of one half of `(KL(p || q) + KL(q || p)) / 2`, where p and q are the two outputs.

    It is the regulariser of R-Drop (Wu et al. 2021, arXiv 2106.14448), here with two SpecAugment masks, as in CR-CTC
    (Yao et al. 2024, arXiv 2410.05101). As in R-Drop, both outputs get a gradient.

    Args:
        logits: `(2 * batch, tokens, vocab_size)`; the second half has the same utterances as the first.
        labels: `(2 * batch, tokens)`, padded with -100.
    """
    real = labels.chunk(2)[0] != -100
    p, q = (half[real].float().log_softmax(-1) for half in logits.chunk(2))  # (tokens, vocab_size)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2
