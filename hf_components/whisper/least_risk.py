"""Of the texts that a beam search found, the one with the least risk instead of the most probable one.

The risk of a text is the mean edit distance to all texts found, each weighted by its probability (minimum Bayes risk,
Goel and Byrne 2000, doi:10.1006/csla.2000.0138). Word errors follow it more closely than the probability of a whole
text does. Where a text has at least half of the probability, it is the text of least risk.
"""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateBeamEncoderDecoderOutput


def choose_least_risk(texts: Sequence[Sequence[int]], log_probs: torch.Tensor) -> int:
    """Index of the text with the least risk, and of equals the first.

    Args:
        texts: different texts, as token ids.
        log_probs: log-probability of each text, `(texts,)`, up to a constant.
    """
    shares = log_probs.float().softmax(0).tolist()
    most = max(range(len(texts)), key=shares.__getitem__)
    if shares[most] >= 0.5:
        return most
    risks = [
        sum(share * edit_distance(text, other) for share, other in zip(shares, texts, strict=True)) for text in texts
    ]
    return min(range(len(texts)), key=risks.__getitem__)


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, token in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (token != other))
    return row[-1]


def keep_least_risk(
    found: GenerateBeamEncoderDecoderOutput, generation_config: GenerationConfig, prompt: int
) -> torch.LongTensor | GenerateBeamEncoderDecoderOutput:
    """Of the texts that a beam search returned for each utterance, the one with the least risk.

    Args:
        found: all `num_beams` texts of each utterance, with scores.
        generation_config: what was asked for: tokens or a dictionary, scores or none.
        prompt: tokens before each text.
    Returns:
        token ids with the prompt `(utterances, tokens)`, or the output with these.
    """
    beams = generation_config.num_beams
    lengths = (found.beam_indices >= 0).sum(1)
    log_probs = found.sequences_scores * lengths**generation_config.length_penalty
    chosen = []
    for first in range(0, len(lengths), beams):
        rows = range(first, first + beams)
        texts = [found.sequences[row, prompt : prompt + lengths[row]].tolist() for row in rows]
        chosen.append(first + choose_least_risk(texts, log_probs[first : first + beams]))
    longest = int(lengths[chosen].max())
    sequences = found.sequences[chosen, : prompt + longest]
    if not generation_config.return_dict_in_generate:
        return sequences
    found.sequences = sequences
    found.beam_indices = found.beam_indices[chosen, :longest]
    found.sequences_scores = found.sequences_scores[chosen] if generation_config.output_scores else None
    found.scores = found.scores if generation_config.output_scores else None
    return found
