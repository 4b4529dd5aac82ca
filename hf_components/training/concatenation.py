"""Short clips of one speaker, joined in pairs. Every choice depends only on seed, epoch and utterance id."""

import logging
from collections import defaultdict
from collections.abc import Sequence

import datasets
import numpy as np

from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE, is_known
from hf_components.training.augmentation import CONCATENATION, draws_of

logger = logging.getLogger(__name__)

ALONE = -1  # instead of a partner
SILENCE_SECONDS = 0.2  # between the two clips
ROUNDING = 0.02  # seconds; durations of a corpus may be rounded


class Concatenation:
    """Which utterances are followed by another one of the same speaker.

    Every utterance is drawn once per epoch, alone or followed by a partner that fits; so is the partner itself.

    Args:
        corpus: training rows.
        share: share of the utterances with a partner; those for which none fits stay alone.
        seed: seed of the choices, used together with epoch and id.
        longest_seconds: limit of the joined clip, with its silence.
        tokens: number of tokens of each transcript.
        longest_tokens: limit of the tokens of both transcripts together; None: no limit.
    Raises:
        UserError: no utterance has a partner.
    """

    def __init__(
        self,
        corpus: datasets.Dataset,
        share: float,
        seed: int,
        longest_seconds: float,
        tokens: Sequence[int],
        longest_tokens: int | None,
    ):
        self.ids = corpus["id"][:]
        self.share = share
        self.seed = seed
        self.durations = np.asarray(corpus["duration"][:], dtype=np.float64)
        self.room = longest_seconds - SILENCE_SECONDS - ROUNDING - self.durations  # seconds for a partner
        self.tokens = np.asarray(tokens)
        self.room_of_tokens = np.inf if longest_tokens is None else longest_tokens - self.tokens
        self.room_of_tokens = np.broadcast_to(self.room_of_tokens, len(self.ids))
        of_speaker = defaultdict(list)
        for index, speaker in enumerate(corpus["speaker_id"][:]):
            if is_known(speaker):
                of_speaker[speaker].append(index)
        # The shortest first: those that fit are at the beginning. By id, so that the order of the rows is irrelevant.
        self.same_speaker: dict[int, np.ndarray] = {}
        for indices in of_speaker.values():
            ordered = np.array(sorted(indices, key=lambda index: (self.durations[index], self.ids[index])))
            self.same_speaker |= dict.fromkeys(indices, ordered)
        able = sum(len(self._fitting(index)) > 0 for index in self.same_speaker)
        if not able:
            raise UserError(
                f"concatenate finds no two utterances to join: of {len(self.ids)}, {len(self.same_speaker)} have a "
                f"known speaker, and none has another one of this speaker within {longest_seconds:g} s; leave out "
                "--concatenate or raise --concatenate_seconds"
            )
        logger.info("%d of %d utterances can be joined with another one of their speaker", able, len(self.ids))

    def partners(self, epoch: int) -> np.ndarray:
        """The row that follows each utterance in this epoch, or `ALONE`: integers `(utterances,)`."""
        partners = np.full(len(self.ids), ALONE)
        for index in self.same_speaker:
            random = draws_of(self.seed, epoch, self.ids[index], CONCATENATION)
            if random.random() < self.share and len(fitting := self._fitting(index)):
                partners[index] = fitting[random.integers(len(fitting))]
        return partners

    def joined_durations(self, partners: np.ndarray) -> np.ndarray:
        """Seconds of each utterance, with its partner if it has one."""
        return self.durations + np.where(partners == ALONE, 0, SILENCE_SECONDS + self.durations[partners])

    def _fitting(self, index: int) -> np.ndarray:
        """The rows that can follow an utterance, the shortest first."""
        others = self.same_speaker[index]
        short = others[: np.searchsorted(self.durations[others], self.room[index], side="right")]
        return short[(short != index) & (self.tokens[short] <= self.room_of_tokens[index])]


def join_clips(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two clips (samples,) with a short silence between them."""
    silence = np.zeros(round(SILENCE_SECONDS * SAMPLING_RATE), dtype=first.dtype)
    return np.concatenate([first, silence, second])
