"""Stay near the base: KL(base || model) beside the cross-entropy, with a schedule."""

from dataclasses import dataclass, field

from hf_components.errors import UserError
from hf_components.training.teacher import TaughtTrainer, Teacher
from hf_components.training.trainer import SpeechTrainer


@dataclass
class KlToBaseArguments:
    """How strongly training is held near what the base model writes."""

    kl_to_base_coef: float = field(default=0.0, metadata={
        "help": "weight of KL(base || model) per token at the start of training; 0 is off; the base hears every "
                "batch at 30 s, which takes its time"})
    kl_to_base_end: float | None = field(default=None, metadata={
        "help": "its weight at the end, reached linearly over the steps; that of the start by default"})

    def __post_init__(self):
        for name in ("kl_to_base_coef", "kl_to_base_end"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UserError(f"{name} must not be negative, got {value}")
        if self.kl_to_base_end and not self.kl_to_base_coef:
            raise UserError(f"kl_to_base_end is where the weight kl_to_base_coef goes, and that is 0 (off); got "
                            f"{self.kl_to_base_end}")

    def coefficient(self, progress: float) -> float:
        """The weight at a point of training, `progress` from 0 to 1."""
        end = self.kl_to_base_coef if self.kl_to_base_end is None else self.kl_to_base_end
        return self.kl_to_base_coef + (end - self.kl_to_base_coef) * progress


class KlToBaseTrainer(TaughtTrainer):
    """Cross-entropy + coefficient * KL(base || model): the targets are drawn towards what the base would write (Yu et al.
    2013, "KL-divergence regularized deep neural network adaptation for improved large vocabulary speech recognition").

    Args:
        kl: weight and schedule.
    """

    kl_name = "kl_to_base"

    def __init__(self, *args, kl: KlToBaseArguments, **kwargs):
        super().__init__(*args, **kwargs)
        self.kl, self.coefficient = kl, kl.kl_to_base_coef

    def loss_weights(self):
        self.coefficient = self.kl.coefficient(self.state.global_step / max(self.state.max_steps, 1))
        return 1.0, self.coefficient

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs["kl_to_base_coef"] = round(self.coefficient, 4)
        super().log(logs, *args, **kwargs)


def speech_trainer(*args, kl: KlToBaseArguments, teacher: Teacher | None, **kwargs) -> SpeechTrainer:
    """A `SpeechTrainer`, held near the base if that is asked for.

    Args:
        teacher: the base; None will do where it is not.
    """
    return KlToBaseTrainer(*args, kl=kl, teacher=teacher, **kwargs) if kl.kl_to_base_coef else SpeechTrainer(*args, **kwargs)
