"""Keep a model close to its base: the loss is cross-entropy plus KL(base || model), with a schedule."""

from dataclasses import dataclass

from hf_components.runtime import UserError, flag
from hf_components.training.teacher import TaughtTrainer, Teacher


@dataclass
class KlToBaseArguments:
    """Weight of KL(base || model) per token, linear from start to end.

    The base always runs with 30 s of audio context, which takes additional time.
    """

    kl_to_base_coef: float = flag("weight of KL(base || model) at the start; 0 is off", default=0.0, min=0)
    kl_to_base_end: float | None = flag(
        "its weight at the end; default: the same as at the start", default=None, min=0, needs="kl_to_base_coef"
    )

    def __post_init__(self):
        if self.kl_to_base_end and not self.kl_to_base_coef:
            raise UserError(f"kl_to_base_end {self.kl_to_base_end} needs a kl_to_base_coef above 0; give both")

    def coefficient(self, progress: float) -> float:
        """The weight at a point of training, `progress` from 0 to 1."""
        end = self.kl_to_base_coef if self.kl_to_base_end is None else self.kl_to_base_end
        return self.kl_to_base_coef + (end - self.kl_to_base_coef) * progress


class KlToBaseTrainer(TaughtTrainer):
    """The loss is cross-entropy + coefficient * KL(base || model), which keeps outputs close to those of the base.

    Source: Yu et al. 2013, "KL-divergence regularized deep neural network adaptation for improved large vocabulary
    speech recognition".

    Args:
        kl: weight and schedule; with None or a weight of 0 this is a plain `SpeechTrainer`.
        base: base model; None is allowed for a plain `SpeechTrainer`.
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
