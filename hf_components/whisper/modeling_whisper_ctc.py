"""Whisper's encoder with a CTC head (Graves et al. 2006): a character or a blank for each 20 ms of audio."""

import torch
from torch import nn
from transformers import WhisperPreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_whisper_ctc import WhisperCTCConfig
from .dynamic_encoder import DynamicContextEncoder
from .mel_frames import fit_audio_context


class WhisperForCTC(WhisperPreTrainedModel):
    """The encoder sees as much audio as there is, at least `config.min_audio_context`."""

    config: WhisperCTCConfig
    config_class = WhisperCTCConfig
    main_input_name = "input_features"

    def __init__(self, config: WhisperCTCConfig):
        super().__init__(config)
        self.encoder = DynamicContextEncoder(config)
        self.ctc_head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    @classmethod
    def from_whisper(cls, whisper: nn.Module, vocab_size: int, blank: int, **settings) -> "WhisperForCTC":
        """Put a new head on the encoder of a Whisper; the encoder's weights are shared with it.

        Args:
            whisper: stock Whisper, or one of this package.
            vocab_size: number of tokens, the blank among them.
            blank: token of frames without text.
            settings: further fields of the configuration.
        """
        fields = {**whisper.config.to_dict(), "vocab_size": vocab_size, "pad_token_id": blank, **settings}
        for name in ("model_type", "architectures", "audio_context"):
            fields.pop(name, None)
        of_decoder = {"bos_token_id": None, "eos_token_id": None, "decoder_start_token_id": 0}  # there is none
        model = cls(WhisperCTCConfig(**{**fields, **of_decoder}))
        model.encoder.load_state_dict(whisper.get_encoder().state_dict())
        return model.to(whisper.device, whisper.dtype).eval()

    def get_encoder(self, modality=None):
        """The same as in transformers."""
        return self.encoder

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutput:
        """Logits `(batch, ceil(frames / 2), vocab_size)`, and the loss if there are labels.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, at most 3000 frames.
            attention_mask: `(batch, frames)`; None: there is no padding.
            labels: `(batch, tokens)`, padded with -100.
        """
        frames = input_features.shape[-1]
        heard = max(frames + frames % 2, self.config.min_audio_context)
        features = fit_audio_context(input_features, min(heard, 2 * self.config.max_source_positions))
        states = self.encoder(features, **kwargs).last_hidden_state[:, : (frames + 1) // 2]
        logits = self.ctc_head(states)
        loss = None
        if labels is not None:
            mask = torch.ones_like(input_features[:, 0]) if attention_mask is None else attention_mask
            real = labels != -100
            with torch.backends.cudnn.flags(enabled=False):
                loss = nn.functional.ctc_loss(
                    logits.float().log_softmax(-1).transpose(0, 1),
                    labels[real],
                    self._get_subsampling_output_length(mask.sum(-1).long()),
                    real.sum(-1),
                    blank=self.config.pad_token_id,
                    reduction=self.config.ctc_loss_reduction,
                    zero_infinity=self.config.ctc_zero_infinity,
                )
        return CausalLMOutput(loss=loss, logits=logits)

    def _get_subsampling_output_length(self, frames: torch.Tensor) -> torch.Tensor:
        """Positions of clips with so many mel frames."""
        return (frames + 1) // 2

    def _get_feature_vector_attention_mask(self, positions: int, attention_mask: torch.Tensor) -> torch.Tensor:
        """Mask over positions, bool `(batch, positions)`, from one over mel frames."""
        lengths = self._get_subsampling_output_length(attention_mask.sum(-1))
        return torch.arange(positions, device=attention_mask.device) < lengths[:, None]


WhisperCTCConfig.register_for_auto_class()
WhisperForCTC.register_for_auto_class("AutoModelForCTC")
