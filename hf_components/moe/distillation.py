"""Distil a MoE-Whisper into one plain Whisper: the student learns the mixture's probabilities and the transcripts."""

from dataclasses import dataclass, field

from hf_components.training import SpeechTrainingArguments, TaughtTrainer


@dataclass
class DistillationArguments(SpeechTrainingArguments):
    """Training arguments of a student all of whose weights are trained."""

    kl_weight: float = field(
        default=0.8,
        metadata={
            "help": "Weight of KL(teacher || student) in the loss, from 0 to 1; cross-entropy on the "
            "transcripts has the rest."
        },
    )
    learning_rate: float = field(
        default=1e-5, metadata={"help": "Peak learning rate; the default suits whole models."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.kl_weight <= 1:
            raise ValueError(f"kl_weight must lie in [0, 1], got {self.kl_weight}")


class DistillationTrainer(TaughtTrainer):
    """Train a plain Whisper towards a mixture (Hinton et al. 2015, arXiv 1503.02531; for Whisper: Gandhi et al. 2023,
    arXiv 2311.00430); its arguments are `DistillationArguments`."""

    kl_name = "distillation_kl"

    def loss_weights(self):
        return 1 - self.args.kl_weight, self.args.kl_weight
