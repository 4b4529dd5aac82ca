"""Training of CTC models that hear waveforms: wav2vec2, HuBERT, WavLM and kin."""

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
SILENT_BELOW = 0.1  # frames with a token, as a share of the tokens of the transcripts
SETTLED = 0.2  # share of training, beside warm-up, in which a model from random weights may write blanks alone


@dataclass
class CtcLoraArguments(LoraArguments):
    """Size and place of a LoRA in wav2vec2 and its kin."""

    target_modules: list[str] = flag(
        f"linear layers that carry it: attention; add {' '.join(FEED_FORWARD)} for the feed-forward layers too",
        default=list(ATTENTION),
    )


@dataclass
class CtcTrainingArguments(SpeechTrainingArguments):
    """`SpeechTrainingArguments` without what only decoders have that write token by token."""

    full_context_fraction: float = field(default=0.0, init=False, metadata={"help": "Of Whisper; no flag here."})
    max_new_tokens: int = field(default=0, init=False, metadata={"help": "Of such decoders; no flag here."})


def prepare_ctc(model: PreTrainedModel, *, freeze_feature_encoder: bool) -> None:
    """Set a CTC model up for `CtcTrainer`, in place; its configuration is saved so.

    The model's own SpecAugment and layer drop are switched off. The first draws from numpy's global generator, so that
    a resumed run is another one; batches are masked by `mask_waveform` instead. The second leaves parameters without a
    gradient, at which training on several processes stops.

    Args:
        freeze_feature_encoder: do not train the convolutions; always asked for with a LoRA, whose backward pass would
            else go down to the waveform for nothing.
    Raises:
        UserError: such a model cannot be trained.
    """
    config = model.config
    if config.model_type not in TRAINED:
        raise UserError(
            f"{model.name_or_path or 'the model'} is of type {config.model_type}; trained with CTC are "
            f"{', '.join(TRAINED)}"
        )
    config.apply_spec_augment, config.layerdrop = False, 0.0
    config.ctc_zero_infinity, config.ctc_loss_reduction = True, "sum"
    for name, parameter in model.named_parameters():
        if name.endswith("masked_spec_embed"):  # of the SpecAugment that is off
            parameter.requires_grad_(False)
    if freeze_feature_encoder:
        model.freeze_feature_encoder()


class CtcTrainer(SpeechTrainer):
    """A `SpeechTrainer` of a CTC model that `prepare_ctc` has set up.

    The loss is -log p(transcript), summed over the batch in float32 and divided by the tokens of the whole accumulated
    global batch, so that every split of it has the same gradient. The log has `blank_rate`, the share of frames in
    which blank is the likeliest; after warm-up and a fifth of training a warning tells of a model that writes next to
    nothing, where CTC gets stuck when the learning rate is too high or transcripts do not fit.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._counts = torch.zeros(3, device=self.args.device)
        self._warned = False  # frames, blanks, tokens

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        tokens = (inputs["labels"] != -100).sum()
        self._count_blanks(outputs.logits, inputs.get("attention_mask"), tokens)
        loss = loss / (tokens if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

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
                    "at step %d the model writes next to nothing: %.1f %% of its frames are blank, and %d frames "
                    "have a token where the transcripts have %d. If this goes on, lower learning_rate, lengthen "
                    "warmup_steps, or look whether transcripts belong to their audio",
                    self.state.global_step,
                    100 * blanks / frames,
                    frames - blanks,
                    tokens,
                )
            self._counts.zero_()
        super().log(logs, *args, **kwargs)
