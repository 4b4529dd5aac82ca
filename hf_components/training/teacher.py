"""Training with a frozen teacher: KL(teacher || student), token by token on the same transcripts."""

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hf_components.runtime import UserError
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper.audio_context import labels_to_decoder_input


class Teacher:
    """A frozen Whisper with its own audio context.

    Args:
        model: Whisper of `hf_components.whisper`, which is frozen here.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model.requires_grad_(False).eval()

    @property
    def config(self):
        return self.model.config

    @torch.no_grad()
    def log_probs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log probabilities of a training batch, float32 `(batch, tokens, vocab_size)`."""
        features = self.model.prepare_audio_context(inputs["input_features"], inputs["attention_mask"])
        mask = torch.nn.functional.pad(
            inputs["attention_mask"], (0, features.shape[-1] - inputs["attention_mask"].shape[-1])
        )
        start = labels_to_decoder_input(inputs["labels"], self.config)
        logits = self.model(features, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits
        return logits.float().log_softmax(-1)


class BaseOfAdapter(Teacher):
    """The base of a LoRA in training: the same weights with the adapter off and the stock audio context of 30 s.

    Args:
        lora: PEFT model in training.
    """

    def __init__(self, lora: PeftModel):
        self.lora = lora
        self.model = lora.get_base_model()

    def log_probs(self, inputs):
        was_training = self.model.training
        context = (self.model.audio_context, self.model.min_audio_context)
        self.model.eval().set_audio_context("full")
        with self.lora.disable_adapter():
            log_probs = super().log_probs(inputs)
        self.model.train(was_training).set_audio_context(*context)
        return log_probs


class TaughtTrainer(SpeechTrainer):
    """A `SpeechTrainer` whose loss is a weighted sum of cross-entropy and KL(teacher || student).

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
            if getattr(teacher.config, name) != getattr(model.config, name):
                values = f"{getattr(teacher.config, name)} and {getattr(model.config, name)}"
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
        real = inputs["labels"] != -100
        with self.accelerator.autocast():
            target = self.teacher.log_probs(inputs)[real]  # (tokens, vocab_size)
        cross_entropy, outputs = super().loss_of_batch(model, inputs, num_items_in_batch)
        student = outputs.logits[real].float().log_softmax(-1)  # (tokens, vocab_size)
        kl_sum = torch.nn.functional.kl_div(student, target, reduction="sum", log_target=True)
        kl = self.per_token(kl_sum, inputs["labels"], num_items_in_batch)
        of_cross_entropy, of_kl = self.loss_weights()
        self._kl += torch.stack([kl_sum.detach(), real.sum()])
        return of_cross_entropy * cross_entropy + of_kl * kl, outputs

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if self.teacher and "loss" in logs:
            kl_sum, tokens = self.accelerator.reduce(self._kl).tolist()  # over all processes
            if tokens:
                logs[self.kl_name] = round(kl_sum / tokens, 4)
            self._kl.zero_()
        super().log(logs, *args, **kwargs)
