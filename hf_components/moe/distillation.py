"""Distil a MoE-Whisper into one plain Whisper: the student learns the mixture's probabilities and the transcripts."""

from dataclasses import dataclass

from hf_components.runtime import flag
from hf_components.training import SpeechTrainingArguments, TaughtTrainer


@dataclass
class DistillationArguments(SpeechTrainingArguments):
    """Training arguments of a student that trains all its weights; the loss is KL and cross-entropy, weighted."""

    kl_weight: float = flag("weight of KL(teacher || student); cross-entropy has the rest", default=0.8, min=0, max=1)
    learning_rate: float = flag("peak learning rate; the default suits whole models", default=1e-5, above=0)


class DistillationTrainer(TaughtTrainer):
    """Train a plain Whisper towards a mixture, with `DistillationArguments`.

    Hinton et al. 2015, arXiv 1503.02531; for Whisper: Gandhi et al. 2023, arXiv 2311.00430.
    """

    kl_name = "distillation_kl"

    def loss_weights(self):
        return 1 - self.args.kl_weight, self.args.kl_weight
