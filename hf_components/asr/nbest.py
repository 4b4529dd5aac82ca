"""Several texts per clip from a CTC model: a prefix beam search over its frames, instead of greedy decoding."""

from collections import defaultdict

import numpy as np

from hf_components.asr.ctc import Ctc
from hf_components.asr.family import place
from hf_components.asr.output_frames import real_frames

WIDTH = 16  # prefixes that are kept from frame to frame; more if more texts are requested
PRUNED = 7.0  # tokens less likely than e^-7 times the best token of their frame are skipped


class CtcNBest(Ctc):
    """`Ctc` that writes up to `count` different texts per clip, one per line, the most likely first."""

    def __init__(self, count: int):
        self.count = count
        self.name = f"CTC, {count} best"

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """The same as in `Family`; `num_beams` is not used."""
        inputs = place(inputs, model)
        log_probs = model(**inputs).logits.float().log_softmax(-1)
        frames = real_frames(model, log_probs.shape[:2], inputs.get("attention_mask")).sum(-1).tolist()
        return [
            "\n".join(self._texts(model, processor, clip[:count]))
            for clip, count in zip(log_probs.cpu().numpy(), frames, strict=True)
        ]

    def _texts(self, model, processor, log_probs: np.ndarray) -> list[str]:
        found = prefix_beam_search(log_probs, model.config.pad_token_id, max(WIDTH, self.count))
        texts = [
            processor.tokenizer.decode(list(tokens), group_tokens=False, skip_special_tokens=True) for tokens in found
        ]
        return list(dict.fromkeys(" ".join(text.split()) for text in texts))[: self.count]


def prefix_beam_search(log_probs: np.ndarray, blank: int, width: int) -> dict[tuple[int, ...], float]:
    """Label sequences with log probabilities (summed over the paths that were followed), the most likely first.

    Source: Hannun et al. 2014, "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", algorithm 1, without a language model.

    Args:
        log_probs: natural logarithms of the probabilities, (frames, vocabulary).
        width: number of prefixes that are kept from frame to frame.
    """
    # prefix -> log probability of its paths that end in a blank, and of those that end in its last token
    beams = {(): (0.0, -np.inf)}
    for frame in log_probs.astype(np.float64):
        grown: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        for token in np.flatnonzero(frame >= frame.max() - PRUNED).tolist():
            for prefix, (in_blank, in_token) in beams.items():
                either = np.logaddexp(in_blank, in_token)
                if token == blank:
                    _add(grown[prefix], 0, either + frame[token])
                elif prefix and token == prefix[-1]:  # the same token continues, or after a blank it is repeated
                    _add(grown[prefix], 1, in_token + frame[token])
                    if in_blank > -np.inf:
                        _add(grown[*prefix, token], 1, in_blank + frame[token])
                else:
                    _add(grown[*prefix, token], 1, either + frame[token])
        beams = dict(sorted(grown.items(), key=lambda item: -np.logaddexp(*item[1]))[:width])
    return {prefix: float(np.logaddexp(*ends)) for prefix, ends in beams.items()}


def _add(ends: list[float], which: int, log_prob: float) -> None:
    ends[which] = np.logaddexp(ends[which], log_prob)
