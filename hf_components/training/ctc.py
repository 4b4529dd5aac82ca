"""Training of CTC models with waveform input: wav2vec2, HuBERT, WavLM and similar."""

import logging
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from hf_components.runtime import UserError, flag
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.lora import LoraArguments
from hf_components.training.trainer import SpeechTrainer

logger = logging.getLogger(__name__)

TRAINED = ("wav2vec2", "hubert", "wavlm", "wav2vec2-conformer", "data2vec-audio", "unispeech", "unispeech-sat")
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
FEED_FORWARD = ("intermediate_dense", "output_dense")
SILENT_BELOW = 0.1  # lowest usual ratio of frames with a token to tokens of the transcripts
SETTLED = 0.2  # share of training in which a new model may write only blanks, as it may during warm-up


@dataclass
class CtcLoraArguments(LoraArguments):
    """Size and place of a LoRA in wav2vec2 and similar models."""

    target_modules: list[str] = flag(
        f"linear layers with a LoRA; {' '.join(FEED_FORWARD)} are the feed-forward ones",
        default=list(ATTENTION),
        needs=({"finetuning": "lora"}, "use_lora"),
    )


@dataclass
class CtcTrainingArguments(SpeechTrainingArguments):
    """`SpeechTrainingArguments` without the arguments of decoders that write token by token."""

    full_context_fraction: float = field(default=0.0, init=False, metadata={"help": "Of Whisper; not a flag here."})
    max_new_tokens: int = field(default=0, init=False, metadata={"help": "Of other decoders; not a flag here."})
    consistency_coef: float = field(default=0.0, init=False, metadata={"help": "Of other decoders; not a flag here."})


def prepare_ctc(model: PreTrainedModel, *, freeze_feature_encoder: bool) -> None:
    """Prepare a CTC model for `CtcTrainer`, in place; its saved configuration has the same settings.

    The model's own SpecAugment and layer drop are switched off. The first uses numpy's global generator, so that a
    resumed run would differ; `mask_waveform` masks the batches instead. The second leaves parameters without a
    gradient, which stops training on several processes.

    Args:
        freeze_feature_encoder: do not train the convolutions. Always set it for a LoRA, where the backward pass
            through them would be useless.
    Raises:
        UserError: models of this type cannot be trained.
    """
    config = model.config
    if config.model_type not in TRAINED:
        name = model.name_or_path or "the model"
        raise UserError(f"{name} is of type {config.model_type}; CTC training supports {', '.join(TRAINED)}")
    config.apply_spec_augment, config.layerdrop = False, 0.0
    config.ctc_zero_infinity, config.ctc_loss_reduction = True, "sum"
    for name, parameter in model.named_parameters():
        if name.endswith("masked_spec_embed"):  # used only by the model's own SpecAugment
            parameter.requires_grad_(False)
    if freeze_feature_encoder:
        model.freeze_feature_encoder()


class CtcTrainer(SpeechTrainer):
    """A `SpeechTrainer` for a CTC model from `prepare_ctc`.

    The loss is -log p(transcript), summed over the batch in float32 and divided by the tokens of the whole accumulated
    global batch, so that the gradient does not depend on how the batch is split. The log has `blank_rate`, the share
    of frames in which the blank is most likely. After warm-up and a fifth of training, a warning appears if the model
    writes almost nothing: CTC gets stuck there if the learning rate is too high or transcripts do not fit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._counts = torch.zeros(3, device=self.args.device)  # frames, blanks, tokens
        self._warned = False

    def longest_transcript(self):
        return None

    def loss_of_batch(self, model, inputs, num_items_in_batch):
        loss, outputs = super().loss_of_batch(model, inputs, num_items_in_batch)
        tokens = (inputs["labels"] != -100).sum()
        self._count_blanks(outputs.logits, inputs.get("attention_mask"), tokens)
        return loss / (tokens if num_items_in_batch is None else num_items_in_batch), outputs

    @torch.no_grad()
    def _count_blanks(self, logits: torch.Tensor, attention_mask: torch.Tensor | None, tokens: torch.Tensor) -> None:
        """Args: logits (batch, frames, vocabulary), attention_mask (batch, samples)."""
        base = self.accelerator.unwrap_model(self.model)
        blank = logits.argmax(-1) == base.config.pad_token_id
        real = (
            torch.ones_like(blank)
            if attention_mask is None
            else base._get_feature_vector_attention_mask(blank.shape[1], attention_mask).bool()
        )
        self._counts += torch.stack([real.sum(), (blank & real).sum(), tokens])

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        frames = 0
        if "loss" in logs:
            frames, blanks, tokens = self.accelerator.reduce(self._counts).tolist()  # over all processes
        if frames:
            logs["blank_rate"] = round(blanks / frames, 4)
            settled = max(self.args.get_warmup_steps(self.state.max_steps), SETTLED * self.state.max_steps)
            if self.state.global_step > settled and not self._warned and frames - blanks < SILENT_BELOW * tokens:
                self._warned = True
                logger.warning(
                    "at step %d the model writes almost nothing: %.1f %% of its frames are blank, and %d frames "
                    "have a token, while the transcripts have %d. If this continues, lower learning_rate, increase "
                    "warmup_steps, or check that the transcripts belong to their audio",
                    self.state.global_step,
                    100 * blanks / frames,
                    frames - blanks,
                    tokens,
                )
            self._counts.zero_()
        super().log(logs, *args, **kwargs)
