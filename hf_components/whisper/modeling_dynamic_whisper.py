"""Whisper on short audio: `DynamicContextWhisper`. State dict and configuration are those of stock Whisper."""

from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.whisper.modeling_whisper import WhisperDecoder
from transformers.utils.generic import can_return_tuple

from .context_attention import attend_to_context
from .dynamic_encoder import DynamicContextEncoder
from .dynamic_generation import DynamicContextGenerationMixin
from .hooks import mask_features
from .losses import labels_to_decoder_input, one_row_each, token_loss
from .silence import DynamicContextOutput, whole_context, without_silence


class DynamicContextWhisperModel(WhisperModel):
    """Encoder for short audio, and the stock decoder: `DynamicContextWhisper` without the layer that makes logits."""

    def __init__(self, config: WhisperConfig):
        super(WhisperModel, self).__init__(config)
        self.encoder = DynamicContextEncoder(config)
        self.decoder = WhisperDecoder(config)
        attend_to_context(self.decoder)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        past_key_values=None,
        decoder_inputs_embeds=None,
        decoder_position_ids=None,
        use_cache=None,
        **kwargs,
    ):
        """The same as in stock Whisper, but the decoder also attends to the silence after the audio.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: `(batch, frames)`, 1 for audio, for SpecAugment in training only.
            decoder_input_ids: `(batch, tokens)`, or `decoder_inputs_embeds (batch, tokens, d_model)`.
            decoder_attention_mask, decoder_position_ids: `(batch, tokens)`.
            encoder_outputs: what this model's encoder made of the features, instead of these.
            past_key_values: the cache of earlier steps.
            use_cache: return the cache.
        Raises:
            ValueError: the features have another number of frames, or the encoder outputs are of another model.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(mask_features(self, input_features, attention_mask), **kwargs)
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = DynamicContextOutput.from_tuple(encoder_outputs)
        attended = BaseModelOutput(
            whole_context(encoder_outputs, self.config), encoder_outputs.hidden_states, encoder_outputs.attentions
        )
        outputs = super().forward(
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=attended,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            **kwargs,
        )
        outputs.encoder_last_hidden_state = encoder_outputs.last_hidden_state
        outputs.cross_attentions = without_silence(
            outputs.cross_attentions, encoder_outputs.last_hidden_state.shape[-2]
        )
        return outputs


class DynamicContextWhisper(DynamicContextGenerationMixin, WhisperForConditionalGeneration):
    """Stock Whisper whose encoder takes any even number of mel frames up to 3000.

    It saves a checkpoint that `WhisperForConditionalGeneration` loads. Its loss is correct with gradient accumulation.
    """

    def __init__(self, config: WhisperConfig):
        super(WhisperForConditionalGeneration, self).__init__(config)
        checkpointing = getattr(config, "gradient_checkpointing", False)  # the encoder removes it
        self.model = DynamicContextWhisperModel(config)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.max_target_positions = config.max_target_positions
        self.set_audio_context("full")
        self.post_init()
        if checkpointing:
            self.gradient_checkpointing_enable()

    @can_return_tuple
    def forward(
        self,
        input_features=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        past_key_values=None,
        decoder_inputs_embeds=None,
        decoder_position_ids=None,
        labels=None,
        use_cache=None,
        num_items_in_batch=None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """The same as in stock Whisper; arguments that are not listed are as in `DynamicContextWhisperModel`.

        Args:
            labels: `(batch, tokens)`, -100 is ignored.
            num_items_in_batch: number of tokens over which `Trainer` averages the loss; those of this batch if None.
        Raises:
            ValueError: see `DynamicContextWhisperModel`, or the labels are longer than the decoder's positions.
        """
        rows = len(input_features) if encoder_outputs is None else len(encoder_outputs[0])
        labels, decoder_input_ids, decoder_inputs_embeds = one_row_each(
            rows, labels, decoder_input_ids, decoder_inputs_embeds
        )
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = labels_to_decoder_input(labels, self.config, self.max_target_positions)
        output = super().forward(
            input_features=input_features,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            **kwargs,
        )
        if labels is not None:
            output = Seq2SeqLMOutput(loss=token_loss(output.logits, labels, num_items_in_batch), **output)
        return output

    def save_pretrained(self, save_directory, **kwargs):
        """Save as a stock `WhisperForConditionalGeneration`."""
        super().save_pretrained(save_directory, **kwargs)
        self.config.architectures = [WhisperForConditionalGeneration.__name__]
        self.config.save_pretrained(save_directory)
