"""Several texts per clip from a CTC model: a prefix beam search over its frames, instead of greedy decoding.

Either all of them are written, or the one that a language model finds probable too.
"""

import copy
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from hf_components.asr.ctc import Ctc
from hf_components.asr.family import place
from hf_components.asr.language_model import LanguageModel
from hf_components.asr.output_frames import real_frames

WIDTH = 16  # prefixes that are kept from frame to frame; more if more texts are requested
PRUNED = 7.0  # tokens less likely than e^-7 times the best token of their frame are skipped
CHOICES = 24  # texts among which a language model chooses
WEIGHT = 0.5  # of the language model, see "A small LLM that chooses" in docs/log.md


def n_best_family(family: Ctc, count: int) -> Ctc:
    """The same family, but it writes up to `count` different texts per clip, one per line, the most likely first."""
    return _deciding(family, f"CTC, {count} best", count, lambda lists: ["\n".join(texts) for texts in lists])


def choosing_family(family: Ctc, language_model: LanguageModel, count: int) -> Ctc:
    """The same family, but it writes what the frames and a language model find most probable together.

    That is, of the `count` texts most likely by the frames, the one with the highest log p(text) by the frames +
    `WEIGHT` * log p(text) by the language model (n-best rescoring; Schwartz and Chow 1990,
    doi:10.1109/ICASSP.1990.115542).
    """

    def choose(lists: list[dict[str, float]]) -> list[str]:
        asked = list({text: None for texts in lists if len(texts) > 1 for text in texts})
        read = dict(zip(asked, language_model.log_probs(asked), strict=True))
        return [max(texts, key=lambda text: texts[text] + WEIGHT * read.get(text, 0.0)) for texts in lists]

    return _deciding(family, f"CTC, {count} best, chosen by {language_model.name}", count, choose)


def _deciding(family: Ctc, name: str, count: int, decide: Callable[[list[dict[str, float]]], list[str]]) -> Ctc:
    made = copy.copy(family)
    made.name = name
    made.decode = lambda model, processor, inputs, **options: decide(n_best(model, processor, inputs, count))
    return made


def n_best(model, processor, inputs, count: int) -> list[dict[str, float]]:
    """For each clip up to `count` different texts with their log probabilities, the most likely first."""
    inputs = place(inputs, model)
    log_probs = model(**inputs).logits.float().log_softmax(-1)
    frames = real_frames(model, log_probs.shape[:2], inputs.get("attention_mask")).sum(-1).tolist()
    return [
        _texts(model, processor, clip[:length], count)
        for clip, length in zip(log_probs.cpu().numpy(), frames, strict=True)
    ]


def _texts(model, processor, log_probs: np.ndarray, count: int) -> dict[str, float]:
    texts: dict[str, float] = {}
    for tokens, log_prob in prefix_beam_search(log_probs, model.config.pad_token_id, max(WIDTH, count)).items():
        text = processor.tokenizer.decode(list(tokens), group_tokens=False, skip_special_tokens=True)
        text = " ".join(text.split())
        texts[text] = float(np.logaddexp(texts.get(text, -np.inf), log_prob))
    likeliest = sorted(texts, key=texts.get, reverse=True)[:count]
    return {text: texts[text] for text in likeliest}


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
