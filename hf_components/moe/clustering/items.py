"""What is clustered: utterances, or speakers by the mean of their utterances."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hf_components.moe.clustering.embeddings import FIT_SPLIT, Embeddings
from hf_components.runtime import UserError
from hf_components.speech import is_known

logger = logging.getLogger(__name__)

SPEAKERS_PER_EXPERT = 3  # with fewer, a cluster of speakers is one or two voices


@dataclass
class Items:
    """What is clustered, and which of them each utterance belongs to."""

    of_utterance: np.ndarray  # (utterances,) item of each
    points: np.ndarray  # (items, dimension)
    fit: np.ndarray  # (items,) boolean: clusters are fitted on these


def make_items(points: np.ndarray, embeddings: Embeddings, cluster_by: Literal["utterance", "speaker"]) -> Items:
    """One item per utterance, or one per speaker at the mean of the points of the speaker's utterances.

    A speaker of "train" is the mean of the utterances there, also for utterances elsewhere. Clusters are fitted on the
    known speakers of "train". An utterance whose speaker is unknown is an item of its own: it gets the weights of its
    own embedding, and takes no part in the fit, where it would count as much as a speaker.

    Args:
        points: (utterances, dimension).
    """
    train = embeddings.splits == FIT_SPLIT
    if cluster_by == "utterance":
        return Items(np.arange(len(train)), points, train)
    items = number_speakers(embeddings.speakers)
    in_train = np.bincount(items, train) > 0
    counted = train | ~in_train[items]
    sums = np.zeros((len(in_train), points.shape[1]))
    np.add.at(sums, items[counted], points[counted])
    means = sums / np.bincount(items[counted])[:, None]
    return Items(items, means, np.bincount(items, train & known_rows(embeddings.speakers)) > 0)


def known_rows(speakers: np.ndarray) -> np.ndarray:
    """(utterances,) boolean: whose speaker is known."""
    names, number = np.unique(speakers, return_inverse=True)
    return np.array([is_known(name) for name in names])[number]


def number_speakers(speakers: np.ndarray) -> np.ndarray:
    """(utterances,) a number from 0 for each speaker; an utterance of an unknown speaker has one of its own."""
    known = known_rows(speakers)
    number = np.unique(speakers, return_inverse=True)[1]
    number[~known] = len(speakers) + np.arange((~known).sum())
    return np.unique(number, return_inverse=True)[1]


def speakers_of(items: Items, speakers: np.ndarray) -> np.ndarray:
    """(fitted items,) number of the speaker of each; one of its own where the speaker is unknown."""
    return number_speakers(speakers[_first_rows(items)])


def utterances_per_speaker(items: Items, speakers: np.ndarray) -> float:
    """How many of the fitted items are of the same speaker, for the median item; 1 where all speakers are unknown."""
    rows = _first_rows(items)
    number = number_speakers(speakers[rows])
    counts = np.bincount(number)[number][known_rows(speakers[rows])]
    return float(np.median(counts)) if len(counts) else 1.0


def choose_items(embeddings: Embeddings, num_experts: int) -> Literal["utterance", "speaker"]:
    """ "speaker" if three known speakers per expert, or more, say half of the utterances of "train", or more."""
    speakers = embeddings.speakers[embeddings.splits == FIT_SPLIT]
    known = known_rows(speakers)
    count = len(np.unique(speakers[known]))
    if count >= SPEAKERS_PER_EXPERT * num_experts and known.mean() >= 0.5:
        return "speaker"
    logger.info(
        "utterances are clustered, not speakers: the split %s has %d known speakers with %.0f %% of its utterances; "
        "clusters of speakers need %d, with half of the utterances",
        FIT_SPLIT,
        count,
        100 * known.mean(),
        SPEAKERS_PER_EXPERT * num_experts,
    )
    return "utterance"


def check_number(items: Items, cluster_by: str, num_experts: int) -> None:
    """Raise UserError unless there are more items to fit on than experts."""
    count = int(items.fit.sum())
    if count > num_experts:
        return
    what = "utterances" if cluster_by == "utterance" else "known speakers"
    remedy = "" if cluster_by == "utterance" else ", use --cluster_by utterance"
    raise UserError(
        f"the split {FIT_SPLIT} must have more {what} than experts, got {count} for {num_experts}; "
        f"lower --num_experts{remedy} or add data"
    )


def _first_rows(items: Items) -> np.ndarray:
    return np.unique(items.of_utterance, return_index=True)[1][items.fit]
