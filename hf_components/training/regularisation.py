"""Flags of regularisers: average of the weights, distance to the start, agreement under two masks."""

from dataclasses import dataclass

from hf_components.runtime import flag


@dataclass
class RegularisationArguments:
    """Regularisers of training, off by default; they can be combined."""

    ema_decay: float = flag(
        "keep an exponential moving average of the trained weights, and evaluate and save it: its decay per optimizer "
        "step, such as 0.99, lower in the first steps; 0: off",
        default=0.0,
        min=0,
        below=1,
    )
    l2_to_start: float = flag(
        "weight of the squared distance of the trained weights to their start, added to the loss; 0: off",
        default=0.0,
        min=0,
    )
    consistency_coef: float = flag(
        "each utterance is trained on under two different masks, and this weight times the symmetric KL divergence "
        "per token between the two outputs is added to the loss; twice the memory and time; 0: off",
        default=0.0,
        min=0,
        needs=("time_masks", "mel_masks"),
    )
