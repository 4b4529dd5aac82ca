"""Stay near the base: KL(base || model) beside the cross-entropy, with a schedule."""

from dataclasses import dataclass

from hf_components.runtime import UserError, flag
from hf_components.training.teacher import TaughtTrainer, Teacher


@dataclass
class KlToBaseArguments:
    """How strongly training is held near what the base model writes."""

    kl_to_base_coef: float = flag(
        "weight of KL(base || model) per token at the start of training; 0 is off; the base hears every "
        "batch at 30 s, which takes its time",
        default=0.0,
        min=0,
    )
    kl_to_base_end: float | None = flag(
        "its weight at the end, reached linearly over the steps; that of the start by default", default=None, min=0
    )

    def __post_init__(self):
        if self.kl_to_base_end and not self.kl_to_base_coef:
            raise UserError(
                f"kl_to_base_end is where the weight kl_to_base_coef goes, and that is 0 (off); got "
                f"{self.kl_to_base_end}"
            )

    def coefficient(self, progress: float) -> float:
        """The weight at a point of training, `progress` from 0 to 1."""
        end = self.kl_to_base_coef if self.kl_to_base_end is None else self.kl_to_base_end
        return self.kl_to_base_coef + (end - self.kl_to_base_coef) * progress


class KlToBaseTrainer(TaughtTrainer):
    """Cross-entropy + coefficient * KL(base || model): the targets are drawn towards what the base would write (Yu et
    al. 2013, "KL-divergence regularized deep neural network adaptation for improved large vocabulary speech
    recognition").

    Args:
        kl: weight and schedule; with a weight of 0, or none given, this is a plain `SpeechTrainer`.
        base: the base; None will do for a plain one.
    """

    kl_name = "kl_to_base"

    def __init__(self, *args, kl: KlToBaseArguments | None = None, base: Teacher | None = None, **kwargs):
        self.kl = kl or KlToBaseArguments()
        super().__init__(*args, teacher=base if self.kl.kl_to_base_coef else None, **kwargs)
        self.coefficient = self.kl.kl_to_base_coef

    def loss_weights(self):
        self.coefficient = self.kl.coefficient(self.state.global_step / max(self.state.max_steps, 1))
        return 1.0, self.coefficient

    def log(self, logs, *args, **kwargs):
        if self.teacher and "loss" in logs:
            logs["kl_to_base_coef"] = round(self.coefficient, 4)
        super().log(logs, *args, **kwargs)
