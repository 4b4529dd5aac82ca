"""Character and word error rate as in the Speech Accessibility Project Challenge (SAPC2).

Each utterance has two references, with and without disfluencies, and the one with the smaller rate counts. Errors of
an utterance are clipped at its length. "unk" in a reference, a word that nobody understood, is no error.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from hf_components.metrics.whisper_wer.bootstrap import error_rate, intervals
from hf_components.scoring.sap_text import COMMIT, UNKNOWN_WORD, hypothesis_text

SCORER = {"name": "SAPC2", "source": "https://github.com/xiuwenz2/SAPC-template", "version": COMMIT}
SUBSTITUTION, GAP = 4, 3  # costs of sclite's alignment; a gap is a deletion or an insertion
RATES = ("cer", "wer")  # the challenge ranks by CER first


def sap_counts(predictions: Iterable[str], references: Iterable[Sequence[str]]) -> dict[str, np.ndarray]:
    """Errors of every utterance.

    Args:
        predictions: one text of a system per utterance, as it wrote it.
        references: two texts per utterance from `reference_texts`, with and without disfluencies.
    Returns:
        float64 arrays of shape (utterances,): `cer_errors`, `cer_length`, `wer_errors`, `wer_length`. They have halves
        where both references have the same rate, because then the mean of their counts is taken.
    Raises:
        ValueError: predictions and references differ in number.
    """
    rows = []
    for prediction, pair in zip(predictions, references, strict=True):
        hypothesis = hypothesis_text(prediction).split()
        forgiven = [forgive_unknown(reference.split(), hypothesis) for reference in pair]
        characters = [(" ".join(reference), " ".join(words)) for reference, words in forgiven]
        rows.append(_smaller(characters) + _smaller(forgiven))
    names = [f"{rate}_{part}" for rate in RATES for part in ("errors", "length")]
    return dict(zip(names, np.array(rows, dtype=float).reshape(len(rows), len(names)).T, strict=True))


def has_markup(references: Iterable[Sequence[str]]) -> bool:
    """Whether the two references of some utterance differ, or hold a word that nobody understood."""
    return any(kept != dropped or UNKNOWN_WORD in kept.split() for kept, dropped in references)


def score_sap(
    counts: dict[str, np.ndarray], speakers: Sequence[str] | None, *, num_bootstrap: int = 1000, seed: int = 0
) -> dict:
    """Rates over all utterances with their 95 % intervals, from `sap_counts`.

    Args:
        speakers: speaker of each utterance; speakers are resampled, or utterances if None.
    """
    parts = {rate: (counts[f"{rate}_errors"], counts[f"{rate}_length"]) for rate in RATES}
    bounds = intervals(parts, speakers, num_bootstrap, seed=seed)
    figures: dict = {}
    for rate, (errors, length) in parts.items():
        figures[rate] = float(error_rate(errors.sum(), length.sum()))
        figures[f"{rate}_interval"] = bounds[rate]
    return {**figures, "utterances": len(counts["wer_errors"]), "speakers": speakers and len(set(speakers))}


def _smaller(pairs: Sequence[tuple[Sequence, Sequence]]) -> tuple[float, float]:
    """Errors and reference length for the reference with the smaller rate."""
    found = []
    for reference, hypothesis in pairs:
        errors = Levenshtein.distance(reference, hypothesis)
        length = len(reference)
        errors = min(errors, length) if length else errors
        found.append((errors / length if length else float("inf"), errors, length))
    (rate, *first), (other, *second) = found
    if rate != other:
        errors, length = first if rate < other else second
        return errors, length
    return (first[0] + second[0]) / 2, (first[1] + second[1]) / 2


def forgive_unknown(reference: list[str], hypothesis: list[str]) -> tuple[list[str], list[str]]:
    """Both texts without what "unk" would cost.

    An "unk" of the reference takes the word that the alignment gives it, or is left out if there is none. An "unk"
    that the system inserted is left out.
    """
    if UNKNOWN_WORD not in reference and UNKNOWN_WORD not in hypothesis:
        return reference, hypothesis
    expected = []
    written = []
    for wanted, found in align_words(reference, hypothesis):
        if wanted == UNKNOWN_WORD:
            wanted = found
        elif wanted is None and found == UNKNOWN_WORD:
            found = None
        expected.append(wanted)
        written.append(found)
    return [word for word in expected if word is not None], [word for word in written if word is not None]


def align_words(reference: list[str], hypothesis: list[str]) -> list[tuple[str | None, str | None]]:
    """Pairs of words in the alignment that NIST's sclite finds; None where a side has no word.

    Of several best alignments sclite takes, from the end on, a pair before a gap, and of two equal gaps the insertion.
    """
    cost = np.zeros((len(reference) + 1, len(hypothesis) + 1), dtype=int)
    cost[:, 0] = GAP * np.arange(len(reference) + 1)
    cost[0] = GAP * np.arange(len(hypothesis) + 1)
    for i, wanted in enumerate(reference, 1):
        for j, found in enumerate(hypothesis, 1):
            pair = cost[i - 1, j - 1] + SUBSTITUTION * (wanted != found)
            cost[i, j] = min(pair, cost[i - 1, j] + GAP, cost[i, j - 1] + GAP)
    pairs: list[tuple[str | None, str | None]] = []
    i = len(reference)
    j = len(hypothesis)
    while i or j:
        different = i and j and reference[i - 1] != hypothesis[j - 1]
        if i and j and cost[i, j] == cost[i - 1, j - 1] + SUBSTITUTION * different:
            i -= 1
            j -= 1
            pairs.append((reference[i], hypothesis[j]))
        elif j and cost[i, j] == cost[i, j - 1] + GAP:
            j -= 1
            pairs.append((None, hypothesis[j]))
        else:
            i -= 1
            pairs.append((reference[i], None))
    return pairs[::-1]
