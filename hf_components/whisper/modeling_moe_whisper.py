"""MoE-Whisper: Whisper with an utterance-level router and LoRA experts.

The router reads the encoder after layer `router_layer`. The experts are all above it, in the later encoder layers and
in the decoder. So one pass through the encoder is enough, and the router sees the embedding that is clustered.

Here are the decoder and the models. The encoder is in `moe_encoder`, the router in `router`, the layers with experts
in `routed_lora`, `generate` in `moe_generation`, the ways in and out for experts in `expert_exchange`.
"""

from contextlib import contextmanager

import torch
from torch import nn
from transformers import Cache, WhisperForConditionalGeneration, WhisperModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.whisper.modeling_whisper import WhisperDecoder
from transformers.utils.generic import can_return_tuple

from .configuration_moe_whisper import TARGETS, MoeWhisperConfig
from .context_attention import attend_to_context
from .expert_exchange import ExpertExchangeMixin
from .expert_losses import ExpertLossesMixin
from .hooks import mask_features
from .losses import labels_to_decoder_input, one_row_each, token_loss
from .mel_frames import count_real_frames
from .mixing import mean_of_experts, mix_probabilities, summed_losses
from .moe_encoder import MoeWhisperEncoder
from .moe_generation import MoeGenerationMixin
from .moe_outputs import MoeEncoderOutput, MoeSeq2SeqLMOutput, MoeSeq2SeqModelOutput
from .moe_pretrained import MoeWhisperPreTrainedModel, add_routed_lora
from .routed_lora import RoutingState
from .silence import whole_context, without_silence


class MoeWhisperDecoder(MoeWhisperPreTrainedModel, WhisperDecoder):
    """Stock decoder whose linear layers have experts; the model sets their weights in `state`."""

    def __init__(self, config: MoeWhisperConfig):
        super().__init__(config)
        attend_to_context(self)
        self.state = RoutingState(config.shared_expert, config.folded_weights)
        add_routed_lora(self.layers, config, self.state)
        self.post_init()


class MoeWhisperModel(MoeWhisperPreTrainedModel, WhisperModel):
    """Encoder with router, and decoder: MoE-Whisper without the layer that makes logits."""

    def __init__(self, config: MoeWhisperConfig):
        super(WhisperModel, self).__init__(config)
        self.encoder = MoeWhisperEncoder(config)
        self.decoder = MoeWhisperDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: MoeEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        expert_weights: torch.Tensor | None = None,
        trunk_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MoeSeq2SeqModelOutput:
        """Stock Whisper's forward pass with routing.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: `(batch, frames)`, 1 for audio; found from the features if None.
            decoder_input_ids: `(batch, tokens)`.
            decoder_attention_mask: `(batch, tokens)`, 0 for padding.
            encoder_outputs: what the encoder made of the features, instead of these.
            past_key_values: the cache of earlier steps; with `mixture="logits"` it has k rows per utterance.
            decoder_inputs_embeds: `(batch, tokens, d_model)`, instead of `decoder_input_ids`.
            decoder_position_ids: `(batch, tokens)`.
            use_cache: return the cache.
            expert_weights: `(batch, experts)`, or one row for all, used instead of the router's choice.
            trunk_states: result of `encoder.trunk` for these features, so that it is not computed again.
        Raises:
            ValueError: encoder outputs are of another model, or the decoder's input has another number of rows.
        """
        if encoder_outputs is None:
            if self.training and self.config.apply_spec_augment:
                input_features, attention_mask = self._mask_audio(input_features, attention_mask)
            encoder_outputs = self.encoder(
                input_features,
                attention_mask=attention_mask,
                expert_weights=expert_weights,
                trunk_states=trunk_states,
                **kwargs,
            )
        if not isinstance(encoder_outputs, MoeEncoderOutput):
            raise ValueError(
                "`encoder_outputs` must come from this model's own encoder, which adds the routing, called with "
                f"`return_dict=True`; got {type(encoder_outputs).__name__}."
            )
        rows = len(encoder_outputs.expert_weights)
        _require_rows("decoder_input_ids", decoder_input_ids, rows)
        _require_rows("decoder_inputs_embeds", decoder_inputs_embeds, rows)
        decoder_inputs = {
            "input_ids": decoder_input_ids,
            "attention_mask": decoder_attention_mask,
            "inputs_embeds": decoder_inputs_embeds,
            "position_ids": decoder_position_ids,
        }
        encoder_states = whole_context(encoder_outputs, self.config)
        if encoder_outputs.mixture_weights is not None:
            encoder_states = self._states_of_experts(encoder_states)
            decoder_inputs = _rows_of_experts(decoder_inputs, encoder_outputs.mixture_weights.shape[1])
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        self.decoder.state.set(encoder_outputs.expert_weights, continues=continues)
        decoder_outputs = self.decoder(
            **decoder_inputs,
            encoder_hidden_states=encoder_states,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return MoeSeq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=without_silence(
                decoder_outputs.cross_attentions, encoder_outputs.last_hidden_state.shape[-2]
            ),
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            encoder_outputs=encoder_outputs,
        )

    def _mask_audio(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SpecAugment on copies of the features, within the audio, and the mask `(batch, frames)` of the audio."""
        frames = torch.arange(input_features.shape[-1], device=input_features.device)
        is_audio = (frames < count_real_frames(input_features, attention_mask)[:, None]).long()
        return mask_features(self, input_features.clone(), is_audio), is_audio

    def _states_of_experts(self, states: torch.Tensor) -> torch.Tensor:
        """States `(batch, k, positions, d_model)` of k active experts, as the decoder takes them.

        Returns:
            `(batch * k, positions, d_model)`; or `(batch, positions, d_model)` if all k are equal, and the decoder's
            own experts make k rows of them.
        """
        are_equal = self.config.router_layer == self.config.encoder_layers
        are_routed = {"k_proj", "v_proj"} <= set(self.config.target_modules)
        return states[:, 0] if are_equal and are_routed else states.flatten(0, 1)


class MoeWhisperForConditionalGeneration(
    MoeWhisperPreTrainedModel,
    ExpertExchangeMixin,
    ExpertLossesMixin,
    MoeGenerationMixin,
    WhisperForConditionalGeneration,
):
    """Whisper with a router and LoRA experts; loads with `AutoModelForSpeechSeq2Seq` and `trust_remote_code=True`."""

    def __init__(self, config: MoeWhisperConfig):
        super(WhisperForConditionalGeneration, self).__init__(config)
        checkpointing = getattr(config, "gradient_checkpointing", False)  # the encoder removes it
        self.model = MoeWhisperModel(config)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.max_target_positions = config.max_target_positions
        self.set_audio_context(config.audio_context, config.min_audio_context)
        self.post_init()
        if checkpointing:
            self.gradient_checkpointing_enable()

    def set_audio_context(self, audio_context: str, min_audio_context: int = 1000) -> None:
        """The same as in `DynamicContextGenerationMixin`, and stored in the configuration."""
        super().set_audio_context(audio_context, min_audio_context)
        self.config.audio_context = audio_context
        self.config.min_audio_context = min_audio_context

    def embed(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The router's input: the mean over real frames of the states after `router_layer`.

        Args:
            input_features: `(batch, num_mel_bins, frames)`.
            attention_mask: `(batch, frames)`, 1 for audio; found from the features if None.
        Returns:
            `(batch, d_model)` in float32.
        """
        if not self.training:
            input_features, attention_mask = self.fit_inputs(input_features, attention_mask)
        return self.model.encoder.embed(input_features, self.config.router_layer, attention_mask)

    def route(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The router's gates, `(batch, experts)`, before hard or top-k selection; arguments as in `embed`."""
        return self.model.encoder.gates(self.model.encoder.router(self.embed(input_features, attention_mask)))

    def fit_inputs(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and mask in this model's audio context, so that gates do not depend on the caller's padding.

        Args:
            input_features: `(batch, num_mel_bins, frames)`.
            attention_mask: `(batch, frames)`, or None, which stays None.
        """
        fitted = self.prepare_audio_context(input_features, attention_mask)
        if attention_mask is not None and attention_mask.shape[-1] == input_features.shape[-1]:
            more = fitted.shape[-1] - attention_mask.shape[-1]
            attention_mask = nn.functional.pad(attention_mask, (0, more))  # cuts if negative
        return fitted, attention_mask

    def train_only(self, *, experts: bool, router: bool) -> None:
        """Freeze everything except the experts and the router, each if requested; see also `unfold`."""
        if experts:
            self.unfold()
        for name, parameter in self.named_parameters():
            is_lora = name.endswith((".lora_a", ".lora_b"))
            parameter.requires_grad_((experts and is_lora) or (router and ".router." in name))

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **kwargs) -> None:
        """The same as in transformers (there also called gradient checkpointing), but non-reentrant only.

        Raises:
            ValueError: `use_reentrant=True`; its second forward pass runs outside the graph that has the routing.
        """
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if options["use_reentrant"]:
            raise ValueError("`use_reentrant` must be False: experts need non-reentrant gradient checkpointing.")
        super().activation_checkpointing_enable(options, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: MoeEncoderOutput | None = None,
        past_key_values: Cache | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        expert_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        fit_audio_context: bool | None = None,
        trunk_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MoeSeq2SeqLMOutput:
        """Stock Whisper's forward pass with routing; arguments that are not listed are as in `MoeWhisperModel`.

        Args:
            labels: `(batch, tokens)`, -100 is ignored.
            num_items_in_batch: number of tokens over which `Trainer` averages the loss; those of this batch if None.
            fit_audio_context: cut or extend the features to the configured audio context, so that the result does not
                depend on their padding. Default: in evaluation only; in training the collator does it.
            trunk_states: result of `expert_losses` for these features, so that it is not computed again.
        Raises:
            ValueError: see `MoeWhisperModel`, or the labels are longer than the decoder's positions.
        """
        rows = len(input_features) if encoder_outputs is None else len(encoder_outputs[0])
        labels, decoder_input_ids, decoder_inputs_embeds = one_row_each(
            rows, labels, decoder_input_ids, decoder_inputs_embeds
        )
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = labels_to_decoder_input(labels, self.config, self.max_target_positions)
        if encoder_outputs is None and (not self.training if fit_audio_context is None else fit_audio_context):
            input_features, attention_mask = self.fit_inputs(input_features, attention_mask)
        outputs = self.model(
            input_features=input_features,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            expert_weights=expert_weights,
            trunk_states=trunk_states,
            **kwargs,
        )
        logits = self.proj_out(outputs.last_hidden_state)
        if outputs.encoder_outputs.mixture_weights is not None:
            return self._mixed_output(outputs, logits, labels, num_items_in_batch)
        return MoeSeq2SeqLMOutput(
            loss=None if labels is None else token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            expert_weights=outputs.encoder_outputs.expert_weights,
            **_same_in_all_mixtures(outputs),
        )

    def _mixed_output(
        self,
        outputs: MoeSeq2SeqModelOutput,
        logits: torch.Tensor,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> MoeSeq2SeqLMOutput:
        """The output with `mixture="logits"`, from logits `(batch * k, tokens, vocab_size)` of k active experts.

        The loss in training is the sum of the experts' losses by their weights, else that of the mixed probabilities.
        """
        mixture_weights = outputs.encoder_outputs.mixture_weights
        # (batch, k, tokens, vocab_size)
        log_probs = logits.unflatten(0, mixture_weights.shape).float().log_softmax(-1)
        logits = mix_probabilities(log_probs, mixture_weights)
        loss = None
        expert_losses = None
        if labels is not None:
            tokens = (labels != -100).sum(-1)
            summed = summed_losses(log_probs, labels)
            expert_losses = summed / tokens.clamp(min=1)[:, None]
            if self.training:
                total = tokens.sum() if num_items_in_batch is None else num_items_in_batch
                loss = (mixture_weights * summed).sum() / total
            else:
                loss = token_loss(logits, labels, num_items_in_batch)
        return MoeSeq2SeqLMOutput(
            loss=loss,
            logits=logits,
            decoder_hidden_states=mean_of_experts(outputs.decoder_hidden_states, mixture_weights),
            decoder_attentions=mean_of_experts(outputs.decoder_attentions, mixture_weights),
            cross_attentions=mean_of_experts(outputs.cross_attentions, mixture_weights),
            expert_weights=(outputs.encoder_outputs.expert_weights * mixture_weights[..., None]).sum(1),
            expert_losses=expert_losses,
            **_same_in_all_mixtures(outputs),
        )

    @contextmanager
    def override(self, **fields):
        """Change configuration fields (`routing`, `mixture`, `experts_per_utterance` and others) in a `with` block.

        Raises:
            ValueError: a field is out of its range.
        """
        before = {name: getattr(self.config, name) for name in fields}
        try:
            self.set_fields(**fields)
            yield self
        finally:
            for name, value in before.items():
                setattr(self.config, name, value)

    def set_fields(self, **fields) -> None:
        """Change configuration fields for good.

        Raises:
            ValueError: a field is out of its range.
        """
        for name, value in fields.items():
            setattr(self.config, name, value)
        self.config.check()


def _rows_of_experts(inputs: dict[str, torch.Tensor | None], k: int) -> dict[str, torch.Tensor | None]:
    """Inputs of a decoder `(batch, ...)` with a row for each of k active experts: `(batch * k, ...)`."""
    return {name: None if value is None else value.repeat_interleave(k, dim=0) for name, value in inputs.items()}


def _require_rows(name: str, given: torch.Tensor | None, rows: int) -> None:
    if given is not None and len(given) != rows:
        raise ValueError(
            f"`{name}` (made from `labels` in training) must have a row for each of the {rows} utterances, "
            f"got {len(given)}."
        )


def _same_in_all_mixtures(outputs: MoeSeq2SeqModelOutput) -> dict:
    """The fields of `MoeSeq2SeqLMOutput` that do not depend on how the experts are mixed."""
    encoded = outputs.encoder_outputs
    return {
        "past_key_values": outputs.past_key_values,
        "encoder_last_hidden_state": outputs.encoder_last_hidden_state,
        "encoder_hidden_states": outputs.encoder_hidden_states,
        "encoder_attentions": outputs.encoder_attentions,
        "router_logits": encoded.router_logits,
        "gates": encoded.gates,
    }


# A checkpoint names the weights of linear layers as stock Whisper does.
for model_class in (MoeWhisperModel, MoeWhisperForConditionalGeneration):
    register_checkpoint_conversion_mapping(
        model_class.__name__,
        [WeightRenaming(rf"({'|'.join(TARGETS)})\.(?!linear\.|lora_)", r"\1.linear.")],
        overwrite=True,
    )

MoeWhisperModel.register_for_auto_class("AutoModel")
MoeWhisperForConditionalGeneration.register_for_auto_class("AutoModelForSpeechSeq2Seq")
