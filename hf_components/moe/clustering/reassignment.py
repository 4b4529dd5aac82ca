"""Move every speaker to the expert with the lowest loss on the speaker's transcripts."""

import logging
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from sklearn.metrics import adjusted_rand_score

from hf_components.moe.clustering.assignment import Clustering
from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.moe.clustering.items import number_speakers
from hf_components.moe.clustering.soft_labels import calibrate_temperature
from hf_components.moe.clustering.summary import summarise_clusters, warn_of_weak_clusters
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)


@dataclass
class Speakers:
    """What is moved; an utterance of an unknown speaker is one of its own."""

    of_utterance: np.ndarray  # (utterances,) speaker of each
    fit: np.ndarray  # (speakers,) boolean: in "train"
    losses: np.ndarray  # (speakers, experts) mean per token
    before: np.ndarray  # (speakers,) label that most of their utterances had


def reassign(embeddings: Embeddings, labels: np.ndarray, target_entropy: float) -> Clustering:
    """Label every utterance with the expert that has the lowest mean loss per token on its speaker.

    One round of the k-means of losses: experts are trained, then speakers move (as in MOPSA, arXiv 2505.24224, whose
    clusters are of adapters). Weights are a softmax of the negative losses, at the temperature that gives "train" the
    entropy asked for. An expert that would lose all speakers of "train" keeps the one that leaves it with the least
    gain.

    Args:
        embeddings: sums of the losses under each expert, then the number of tokens, see `ExpertLosses`.
        labels: (utterances,) expert of each before.
        target_entropy: mean normalised entropy of the weights of "train".
    Returns:
        The clustering; its points are the speaker's losses. Its summary has under `reassigned` how many `speakers`
        there are in "train" and how many `moved`, the `adjusted_rand` index of the labels before and after over its
        utterances, the mean `loss_before` and `loss_after` per token, the speakers `from_to` each expert, and the
        experts that `lost_all`.
    Raises:
        UserError: there is no split "train", or a loss is not finite.
    """
    train = embeddings.splits == FIT_SPLIT
    if not train.any():
        raise UserError(f"speakers of the split {FIT_SPLIT} are reassigned, but the corpus has none")
    speakers = gather(embeddings, labels)
    after = speakers.losses.argmin(1)
    lost_all = keep_one_each(speakers, after)
    temperature, weights = soften(speakers, after, train, target_entropy)
    of_utterance = speakers.of_utterance
    fit = speakers.fit
    new = after[of_utterance]
    experts = speakers.losses.shape[1]
    tokens = embeddings.vectors[:, -1]
    rows = np.arange(len(after))
    summary = {
        "num_experts": experts,
        "temperature": temperature,
        "target_entropy": target_entropy,
        "reassigned": {
            "speakers": int(fit.sum()),
            "moved": int((after != speakers.before)[fit].sum()),
            "adjusted_rand": float(adjusted_rand_score(labels[train], new[train])),
            "loss_before": _mean(speakers.losses[rows, speakers.before][of_utterance], tokens, train),
            "loss_after": _mean(speakers.losses[rows, after][of_utterance], tokens, train),
            "from_to": _moves(speakers, after).tolist(),
            "lost_all": lost_all,
        },
        **summarise_clusters(embeddings, train, new, weights[of_utterance]),
    }
    warn_of_weak_clusters(embeddings, train, {"algorithm": "reassigned", **summary})
    return Clustering(new, weights[of_utterance], speakers.losses[of_utterance], summary)


def gather(embeddings: Embeddings, labels: np.ndarray) -> Speakers:
    """Losses and labels by speaker; a speaker of "train" counts by the utterances there."""
    train = embeddings.splits == FIT_SPLIT
    number = number_speakers(embeddings.speakers)
    fit = np.bincount(number, train) > 0
    counted = train | ~fit[number]
    sums = np.zeros((len(fit), embeddings.vectors.shape[1]))
    np.add.at(sums, number[counted], embeddings.vectors[counted])
    votes = np.zeros((len(fit), sums.shape[1] - 1))
    np.add.at(votes, (number[counted], labels[counted]), 1)
    return Speakers(number, fit, sums[:, :-1] / sums[:, -1:], votes.argmax(1))


def keep_one_each(speakers: Speakers, after: np.ndarray) -> list[int]:
    """Give each expert that lost all speakers of "train" the one that costs least; returns these experts.

    Args:
        after: (speakers,) expert of each, changed in place.
    """
    lost = []
    for expert in range(speakers.losses.shape[1]):
        taken = np.bincount(after[speakers.fit], minlength=speakers.losses.shape[1])
        if taken[expert]:
            continue
        lost.append(expert)
        free = np.flatnonzero(speakers.fit & (taken[after] > 1))
        if not len(free):
            raise UserError(
                f"{int(speakers.fit.sum())} speakers cannot be divided among {len(taken)} experts; lower --num_experts"
            )
        cost = speakers.losses[free, expert] - speakers.losses[free, after[free]]
        after[free[cost.argmin()]] = expert
        logger.warning(
            "expert %d has the lowest loss on no speaker, and keeps the one that it does least harm to; lower "
            "--num_experts, or train the experts longer",
            expert,
        )
    return lost


def soften(
    speakers: Speakers, after: np.ndarray, train: np.ndarray, target_entropy: float
) -> tuple[float, np.ndarray]:
    """Temperature, and weights `(speakers, experts)` whose greatest is that of the expert in `after`."""
    scores = -speakers.losses
    temperature = calibrate_temperature(scores[speakers.of_utterance[train]], target_entropy)
    weights = softmax(scores / temperature, axis=-1)
    kept = after != speakers.losses.argmin(1)
    weights[kept] = np.eye(weights.shape[1])[after[kept]]
    return temperature, weights


def _mean(losses: np.ndarray, tokens: np.ndarray, chosen: np.ndarray) -> float:
    return float(np.average(losses[chosen], weights=tokens[chosen]))


def _moves(speakers: Speakers, after: np.ndarray) -> np.ndarray:
    """(experts, experts) number of speakers of "train", by expert before and after."""
    counts = np.zeros((speakers.losses.shape[1],) * 2, int)
    np.add.at(counts, (speakers.before[speakers.fit], after[speakers.fit]), 1)
    return counts
