"""Training with a frozen teacher: KL(teacher || student), position by position on the same transcripts."""

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hf_components.asr import family_of
from hf_components.runtime import UserError
from hf_components.training.trainer import SpeechTrainer, comparable
from hf_components.whisper import DynamicContextWhisper


class Teacher:
    """A frozen model. A Whisper keeps its own audio context.

    Args:
        model: model of a family that can be trained, which is frozen here.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model.requires_grad_(False).eval()

    @property
    def config(self):
        return self.model.config

    @torch.no_grad()
    def log_probs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log probabilities at the positions of a training batch that count, float32 `(positions, vocab_size)`."""
        family = family_of(self.model)
        scores = family.score(self.model, family.as_teacher(self.model, inputs))
        logits, real = comparable(scores, family.name, "a teacher")
        return logits[real].float().log_softmax(-1)


class BaseOfAdapter(Teacher):
    """The base of a LoRA in training: the same weights with the adapter off; for a Whisper, with 30 s of context.

    Args:
        lora: PEFT model in training.
    """

    def __init__(self, lora: PeftModel):
        self.lora = lora
        self.model = lora.get_base_model()

    def log_probs(self, inputs):
        modes = {part: part.training for part in self.model.modules()}  # batch norms stay as they were
        is_whisper = isinstance(self.model, DynamicContextWhisper)
        if is_whisper:
            context = (self.model.audio_context, self.model.min_audio_context)
            self.model.set_audio_context("full")
        self.model.eval()
        try:
            with self.lora.disable_adapter():
                return super().log_probs(inputs)
        finally:
            for part, mode in modes.items():
                part.training = mode
            if is_whisper:
                self.model.set_audio_context(*context)


class TaughtTrainer(SpeechTrainer):
    """A `SpeechTrainer` whose loss is a weighted sum of its own and KL(teacher || student), per token of the texts.

    Both get the same augmented features (Beyer et al. 2022, arXiv 2106.05237), the teacher in its own audio context,
    the student in that of the batch. The teacher runs first, to save memory: the student has no graph yet.

    Args:
        teacher: teacher; None for plain training.
    Raises:
        UserError: teacher and student write different tokens.
    """

    kl_name: str  # name of the mean KL per token in the log

    def __init__(self, model, *others, teacher: Teacher | None, **kwargs):
        super().__init__(model, *others, **kwargs)
        self.teacher = teacher
        if teacher is None:
            return
        for name in ("vocab_size", "decoder_start_token_id"):
            of_each = [getattr(config, name, None) for config in (teacher.config, model.config)]
            if of_each[0] != of_each[1]:
                values = f"{of_each[0]} and {of_each[1]}"
                raise UserError(
                    f"teacher and student must write the same tokens, but their {name} is {values}; distil into a "
                    "Whisper with the teacher's vocabulary"
                )
        teacher.model.to(self.args.device)
        self._kl = torch.zeros(2, device=self.args.device)  # sum of the KL, number of tokens

    def loss_weights(self) -> tuple[float, float]:
        """Weights of cross-entropy and KL at this step."""
        raise NotImplementedError

    def loss_of_batch(self, model, inputs, num_items_in_batch):
        if self.teacher is None:
            return super().loss_of_batch(model, inputs, num_items_in_batch)
        labels = inputs["labels"]
        with self.accelerator.autocast():
            target = self.teacher.log_probs(inputs)  # (real positions, vocab_size)
        cross_entropy, scores = super().loss_of_batch(model, inputs, num_items_in_batch)
        logits, real = comparable(scores, self.family.name, self.kl_name)
        student = logits[real].float().log_softmax(-1)  # (real positions, vocab_size)
        kl_sum = torch.nn.functional.kl_div(student, target, reduction="sum", log_target=True)
        kl = self.per_token(kl_sum, labels, num_items_in_batch)
        of_cross_entropy, of_kl = self.loss_weights()
        self._kl += torch.stack([kl_sum.detach(), (labels != -100).sum()])
        return of_cross_entropy * cross_entropy + of_kl * kl, scores

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if self.teacher and "loss" in logs:
            kl_sum, tokens = self.accelerator.reduce(self._kl).tolist()  # over all processes
            if tokens:
                logs[self.kl_name] = round(kl_sum / tokens, 4)
            self._kl.zero_()
        super().log(logs, *args, **kwargs)
