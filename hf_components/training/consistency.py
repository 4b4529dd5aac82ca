"""Agreement of a model with itself: the same utterances under two different masks."""

import torch


def symmetric_kl(logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Sum over the positions of one half of `(KL(p || q) + KL(q || p)) / 2`, where p and q are the two outputs.

    It is the regulariser of R-Drop (Wu et al. 2021, arXiv 2106.14448), here with two SpecAugment masks, as in CR-CTC
    (Yao et al. 2024, arXiv 2410.05101). As in R-Drop, both outputs get a gradient.

    Args:
        logits: `(2 * batch, positions, vocab_size)`; the second half has the same utterances as the first.
        real: positions that count, bool `(2 * batch, positions)`.
    """
    real = real.chunk(2)[0]
    p, q = (half[real].float().log_softmax(-1) for half in logits.chunk(2))  # (real positions, vocab_size)
    return ((p.exp() - q.exp()) * (p - q)).sum() / 2
