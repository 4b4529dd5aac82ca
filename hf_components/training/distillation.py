"""Distil a MoE-Whisper into one plain Whisper: the student learns the mixture's probabilities and the transcripts."""

from dataclasses import dataclass, field

import torch

from hf_components.errors import UserError
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.audio_context import labels_to_decoder_input


@dataclass
class DistillationArguments(SpeechTrainingArguments):
    """Training arguments of a student all of whose weights are trained."""

    kl_weight: float = field(default=0.8, metadata={
        "help": "Weight of KL(teacher || student) in the loss, from 0 to 1; cross-entropy on the transcripts has the rest."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate; the default suits whole models."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.kl_weight <= 1:
            raise ValueError(f"kl_weight must lie in [0, 1], got {self.kl_weight}")


class DistillationTrainer(SpeechTrainer):
    """Train a plain Whisper towards a mixture, token by token on the same transcripts (Hinton et al. 2015,
    arXiv 1503.02531; for Whisper: Gandhi et al. 2023, arXiv 2311.00430).

    Both hear the same augmented features (Beyer et al. 2022, arXiv 2106.05237), each in an audio context that it is good
    in: the teacher in its own, the student in the batch's.

    Args:
        teacher: the mixture; it is frozen.
    Raises:
        UserError: teacher and student write different tokens.
    """

    def __init__(self, model, args: DistillationArguments, *others, teacher: MoeWhisperForConditionalGeneration, **kwargs):
        super().__init__(model, args, *others, **kwargs)
        for name in ("vocab_size", "decoder_start_token_id"):
            if getattr(teacher.config, name) != getattr(model.config, name):
                raise UserError(f"teacher and student must write the same tokens, but their {name} is "
                                f"{getattr(teacher.config, name)} and {getattr(model.config, name)}; distil into a Whisper "
                                "with the teacher's vocabulary")
        self.teacher = teacher.requires_grad_(False).eval().to(args.device)
        self._kl_sum, self._kl_count = torch.zeros((), device=args.device), 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        real = inputs["labels"] != -100
        target = self._teacher_log_probs(inputs)[real]  # (tokens, vocab_size); first, while no graph of the student's is kept
        cross_entropy, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        student = outputs.logits[real].float().log_softmax(-1)  # (tokens, vocab_size)
        kl_sum = torch.nn.functional.kl_div(student, target, reduction="sum", log_target=True)
        kl = kl_sum / (real.sum() if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            kl = kl * self.accelerator.num_processes  # gradients are averaged over processes afterwards
        loss = (1 - self.args.kl_weight) * cross_entropy + self.args.kl_weight * kl
        self._kl_sum += kl_sum.detach() / real.sum()
        self._kl_count += 1
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _teacher_log_probs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """`(batch, tokens, vocab_size)` of the frozen teacher, which fits the features to its own audio context."""
        start = labels_to_decoder_input(inputs["labels"], self.teacher.config)
        with self.accelerator.autocast():
            logits = self.teacher(inputs["input_features"], attention_mask=inputs["attention_mask"], decoder_input_ids=start,
                                  use_cache=False).logits
        return logits.float().log_softmax(-1)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs and self._kl_count:
            logs["distillation_kl"] = round(float(self._kl_sum) / self._kl_count, 4)
            self._kl_sum.zero_()
            self._kl_count = 0
        super().log(logs, *args, **kwargs)
