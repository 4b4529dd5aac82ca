"""Gold from several recognisers: a vote on every word, and an estimate of how often the vote is wrong."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from hf_components.scoring import disagreement, utterance_errors, vote


def consensus(heard: Sequence[Sequence[str]]) -> list[str]:
    """The vote on every recording, see `hf_components.scoring.vote`.

    Args:
        heard: texts of each recording, one per recogniser, in the same order of recognisers.
    """
    return [vote(texts) if any(text.strip() for text in texts) else "" for texts in heard]


def estimated_errors(heard: Sequence[Sequence[str]], gold: Sequence[str]) -> np.ndarray:
    """Expected number of wrong words of each gold text, as far as disagreement tells: `(recordings,)`.

    It takes the recognisers as independent within a recording, where each is as often wrong as its words differ from
    the gold. A voted word is wrong if at least half of them are. With two recognisers, of which each may be the one
    that is wrong, half of their disagreement counts. Errors that recognisers share are not seen.

    Args:
        heard: texts of each recording, one per recogniser; at least two.
        gold: what they were voted to.
    """
    recognisers = len(heard[0])
    if recognisers == 2:
        shares = np.array([disagreement([[a], [b]]) / 2 for a, b in heard])
    else:
        distances = [utterance_errors([texts[i] for texts in heard], gold) for i in range(recognisers)]
        wrong = [np.minimum(1, d["errors"] / np.maximum(d["reference_words"], 1)) for d in distances]
        shares = _half_or_more(np.stack(wrong, axis=1))
    words = utterance_errors(gold, gold)["reference_words"]
    return np.minimum(1, shares) * words


def estimated_wer(errors: Sequence[float], gold: Sequence[str]) -> float | None:
    """Expected errors per word of the gold; None if it has no words."""
    words = int(utterance_errors(gold, gold)["reference_words"].sum())
    return float(sum(errors) / words) if words else None


def write_gold(
    file: Path,
    ids: Sequence[str],
    names: Sequence[str],
    heard: Sequence[Sequence[str]],
    gold: Sequence[str],
    expected: Sequence[float],
) -> None:
    """One line of JSON per recording: what each recogniser heard, the gold, and how far they agree with it.

    Args:
        expected: wrong words of each gold text, from `estimated_errors`.
    """
    words = utterance_errors(gold, gold)["reference_words"]
    with file.open("w", encoding="utf-8") as lines:
        for i, name in enumerate(ids):
            row = {
                "id": name,
                "heard": dict(zip(names, heard[i], strict=True)),
                "gold": gold[i],
                "estimated_wer": round(float(expected[i] / words[i]), 4) if words[i] else None,
                "disagreement": round(disagreement([[text] for text in heard[i]]), 4),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _half_or_more(wrong: np.ndarray) -> np.ndarray:
    """Probability that at least half of the recognisers are wrong: `(recordings, recognisers)` -> `(recordings,)`."""
    count = wrong.shape[1]
    total = np.zeros(len(wrong))
    for size in range((count + 1) // 2, count + 1):
        for chosen in combinations(range(count), size):
            others = [i for i in range(count) if i not in chosen]
            total += wrong[:, list(chosen)].prod(axis=1) * (1 - wrong[:, others]).prod(axis=1)
    return total
