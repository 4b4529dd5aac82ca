"""By what each utterance is transcribed: the weights of experts, or the voice of a person."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_components.asr.voices import Voices
from hf_components.runtime import UserError, first_few


@dataclass(frozen=True)
class Routing:
    """Of each utterance its weights over the experts, or the name of its voice; neither: the model as it is.

    Args:
        expert_weights: weights that replace the router of a MoE-Whisper, `(utterances, experts)`.
        voices: name of the voice of each utterance.
    """

    expert_weights: torch.Tensor | None = None
    voices: Sequence[str] | None = None

    def of(self, rows: Sequence[int]) -> "Routing":
        """The same for some of the utterances."""
        return Routing(
            None if self.expert_weights is None else self.expert_weights[list(rows)],
            None if self.voices is None else [self.voices[row] for row in rows],
        )


MODEL_AS_IT_IS = Routing()


def routing_by(
    voices: Voices | None, count: int, expert_weights: torch.Tensor | None, names: Sequence[str] | None
) -> Routing:
    """The routing of `count` utterances, by the voices that are loaded and the `names` that are asked for.

    Args:
        voices: the voices that are loaded, None if there are none.
        expert_weights: `(utterances, experts)`, only without voices.
        names: name of the voice of each utterance; a single voice that is loaded needs none.
    Raises:
        UserError: there is no such voice, or none is loaded; several are loaded and none is named; or expert weights
            are given too.
    """
    if voices is None:
        if names is not None:
            raise UserError("voices are named, but none is loaded; give voice when the recogniser is loaded")
        return Routing(expert_weights)
    if expert_weights is not None:
        raise UserError("expert_weights and a voice both choose what is added to the model; leave one of them out")
    if names is None and len(voices.names) > 1:
        raise UserError(
            f"{len(voices.names)} voices are loaded, such as {voices.names[0]}: name that of each recording"
        )
    if unknown := [name for name in names or () if name not in voices.names]:
        raise UserError(f"there is no voice {unknown[0]!r}; there are {first_few(voices.names)}")
    return Routing(voices=[voices.names[0]] * count if names is None else list(names))
