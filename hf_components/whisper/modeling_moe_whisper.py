"""MoE-Whisper: Whisper with an utterance-level router and LoRA experts.

The router reads the encoder after layer `router_layer`. The experts are all above it, in the later encoder layers and
in the decoder. So one pass through the encoder is enough, and the router sees the embedding that is clustered.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperPreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .adapters import load_adapter, save_adapter, stack_adapters
from .configuration_moe_whisper import TARGETS, MoeWhisperConfig
from .dynamic_encoder import DynamicContextEncoder
from .folding import FoldingMixin
from .losses import labels_to_decoder_input, one_row_each, token_loss
from .mel_frames import count_real_frames, pool_real_frames
from .mixing import check_expert_weights, mean_of_experts, mix_probabilities, summed_losses
from .moe_generation import MoeGenerationMixin
from .routed_lora import MERGE_RULE, RoutedLinear, RoutingState, UtteranceRouter, stock_weights
from .silence import DynamicContextOutput, attend_to_context, divide_context, whole_context, without_silence

logger = logging.get_logger(__name__)


@dataclass
class MoeEncoderOutput(DynamicContextOutput):
    """Encoder states and their routing, which the decoder uses too.

    With `mixture="logits"` and k active experts, states are `(batch, k, positions, d_model)`; hidden states and
    attentions are the mean over the experts by their mixture weights.

    Args:
        expert_weights: weights of each row, `(batch, experts)`, or one-hot `(batch, k, experts)` under "logits".
        mixture_weights: weights of the k active experts under "logits", `(batch, k)`; None otherwise.
        router_logits: `(batch, experts)`.
        gates: softmax of the router's logits before any selection, `(batch, experts)`.
    """

    expert_weights: torch.FloatTensor | None = None
    mixture_weights: torch.FloatTensor | None = None
    router_logits: torch.FloatTensor | None = None
    gates: torch.FloatTensor | None = None


@dataclass
class MoeSeq2SeqModelOutput(Seq2SeqModelOutput):
    encoder_outputs: MoeEncoderOutput | None = None


@dataclass
class MoeSeq2SeqLMOutput(Seq2SeqLMOutput):
    """Stock output, plus the routing.

    Args:
        router_logits, gates: `(batch, experts)`, see [`MoeEncoderOutput`].
        expert_weights: weights over experts that made this output, `(batch, experts)`.
        expert_losses: mean token loss of each active expert, `(batch, k)`, under `mixture="logits"` with labels.
    """

    router_logits: torch.FloatTensor | None = None
    gates: torch.FloatTensor | None = None
    expert_weights: torch.FloatTensor | None = None
    expert_losses: torch.FloatTensor | None = None


class MoeWhisperPreTrainedModel(FoldingMixin, WhisperPreTrainedModel):
    config: MoeWhisperConfig
    config_class = MoeWhisperConfig
    # transformers quantises none of these: the router, and the whole of a routed layer, but what is inside that.
    _keep_in_fp32_modules = [r".*\.router", rf".*\.({'|'.join(TARGETS)})(?!\.)"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, RoutedLinear):
            if module.num_experts:
                # The same as PEFT (Kaiming with a = sqrt 5): A uniform, B zero, so a fresh expert changes nothing.
                bound = module.in_features**-0.5
                init.uniform_(module.lora_a, -bound, bound)
                init.zeros_(module.lora_b)
            return
        super()._init_weights(module)
        if isinstance(module, UtteranceRouter):
            init.zeros_(module.mean)
            init.ones_(module.std)

    def save_pretrained(self, save_directory, **kwargs):
        """The same as in transformers, with experts folded into the plain weights; known to `AutoModel` too."""
        known = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**known, "AutoModel": f"{Path(__file__).stem}.{MoeWhisperModel.__name__}"}
        super().save_pretrained(save_directory, **kwargs)


class MoeWhisperEncoder(MoeWhisperPreTrainedModel, DynamicContextEncoder):
    """Encoder that routes after `router_layer` layers."""

    def __init__(self, config: MoeWhisperConfig):
        super().__init__(config)
        self.router = UtteranceRouter(config.d_model, config.router_hidden_size, config.num_experts)
        self.state = RoutingState(config.shared_expert, config.folded_weights)
        add_routed_lora(self.layers, config, self.state, first=config.router_layer)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        expert_weights: torch.Tensor | None = None,
        trunk_states: torch.Tensor | None = None,
        **kwargs,
    ) -> MoeEncoderOutput:
        """Encode and route.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: `(batch, frames)`, marks the padding for the router; found from the features if None.
            expert_weights: `(batch, experts)`, used instead of the router's choice.
            trunk_states: result of `trunk` for these features, so that it is not computed again.
        """
        hidden_states = self.trunk(input_features, **kwargs) if trunk_states is None else trunk_states
        router_logits = self.router(pool_real_frames(hidden_states, count_real_frames(input_features, attention_mask)))
        gates = self.gates(router_logits)
        if expert_weights is None:
            weights = self.select(gates)
            if not self.training and not torch.compiler.is_compiling():
                logger.debug("routing: experts %s", weights.argmax(-1).tolist())
        else:
            weights = check_expert_weights(expert_weights, gates)

        mixture_weights = None
        if self.config.mixture == "logits" and (expert_weights is not None or self.config.routing != "hard"):
            if not torch.compiler.is_compiling() and not bool(weights.any(-1).all()):
                raise ValueError("`expert_weights` must hold at least one positive weight per row to mix outputs.")
            mixture_weights, weights = self.active_experts(weights, all_experts=expert_weights is not None)
        above = self.layers[self.config.router_layer :]
        if mixture_weights is not None and above:
            hidden_states = hidden_states.repeat_interleave(weights.shape[1], dim=0)  # (batch * k, positions, d_model)
        self.state.set(weights)
        hidden_states = self.layer_norm(self.run_layers(hidden_states, above, **kwargs))
        if mixture_weights is not None:
            k = mixture_weights.shape[1]
            # Without experts in the encoder all k states of an utterance are equal.
            hidden_states = (
                hidden_states.unflatten(0, (-1, k)) if above else hidden_states[:, None].expand(-1, k, -1, -1)
            )
        return MoeEncoderOutput(
            **divide_context(hidden_states, input_features.shape[-1]),
            expert_weights=weights,
            mixture_weights=mixture_weights,
            router_logits=router_logits,
            gates=gates,
        )

    def show_audio(self, outputs: MoeEncoderOutput) -> MoeEncoderOutput:
        """The outputs of `encode` with hidden states and attentions cut to the audio, one row per utterance."""
        weights = outputs.mixture_weights
        if weights is not None and outputs.hidden_states is not None:
            *below, last = outputs.hidden_states
            outputs.hidden_states = (*mean_of_experts(below, weights), *mean_of_experts([last.flatten(0, 1)], weights))
        if weights is not None:
            outputs.attentions = mean_of_experts(outputs.attentions, weights)
        return super().show_audio(outputs)

    def trunk(self, input_features: torch.Tensor, **kwargs) -> torch.Tensor:
        """States after `router_layer` layers, `(batch, positions, d_model)`, which do not depend on experts."""
        return self.run_layers(self.embed_frames(input_features), self.layers[: self.config.router_layer], **kwargs)

    def gates(self, router_logits: torch.Tensor) -> torch.Tensor:
        """Softmax at the configured temperature, with noise and the usage floor in training, `(batch, experts)`."""
        config = self.config
        if self.training and config.router_noise_std > 0:
            router_logits = router_logits + config.router_noise_std * torch.randn_like(router_logits)
        gates = (router_logits / config.router_temperature).softmax(-1)
        if self.training and config.routing == "soft" and config.min_expert_usage_fraction > 0:
            floor = config.min_expert_usage_fraction
            gates = (1 - config.num_experts * floor) * gates + floor
        return gates

    def select(self, gates: torch.Tensor) -> torch.Tensor:
        """Weights over experts `(batch, experts)` by the configured routing and mixture."""
        config = self.config
        plain = gates.new_tensor(config.plain_weights).expand(gates.shape)
        if config.mixture in ("merge", "choose"):
            return plain
        weights = self._chosen(gates)
        if config.mixture == "logits" or config.beta == 1:
            return weights
        return config.beta * weights + (1 - config.beta) * plain

    def _chosen(self, gates: torch.Tensor) -> torch.Tensor:
        config = self.config
        if config.routing == "soft":
            return gates
        if config.routing == "top_k":
            best = gates.topk(config.experts_per_utterance, dim=-1)
            kept = torch.zeros_like(gates).scatter(-1, best.indices, best.values)
            return kept / kept.sum(-1, keepdim=True)
        chosen = nn.functional.one_hot(gates.argmax(-1), config.num_experts).to(gates.dtype)
        # Straight-through: the value is one-hot, the gradient is that of the gates, so the router stays in the graph.
        return chosen + (gates - gates.detach()) if self.training else chosen

    def active_experts(self, weights: torch.Tensor, all_experts: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """The k active experts: their weights `(batch, k)` and one-hot rows `(batch, k, experts)`.

        Under top-k routing these are the best `experts_per_utterance`, best first; otherwise all, by number.
        """
        every = torch.eye(self.config.num_experts, dtype=weights.dtype, device=weights.device)
        if all_experts or self.config.routing == "soft":
            return weights, every.expand(weights.shape[0], -1, -1)
        active = weights.topk(self.config.experts_per_utterance, dim=-1)
        return active.values, every[active.indices]


class MoeWhisperDecoder(MoeWhisperPreTrainedModel, WhisperDecoder):
    """Stock decoder whose linear layers have experts; the model sets their weights in `state`."""

    def __init__(self, config: MoeWhisperConfig):
        super().__init__(config)
        attend_to_context(self)
        self.state = RoutingState(config.shared_expert, config.folded_weights)
        add_routed_lora(self.layers, config, self.state)
        self.post_init()


class MoeWhisperModel(MoeWhisperPreTrainedModel, WhisperModel):
    def __init__(self, config: MoeWhisperConfig):
        super(WhisperModel, self).__init__(config)
        self.encoder = MoeWhisperEncoder(config)
        self.decoder = MoeWhisperDecoder(config)
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
        expert_weights=None,
        trunk_states=None,
        **kwargs,
    ) -> MoeSeq2SeqModelOutput:
        if encoder_outputs is None:
            if self.training and self.config.apply_spec_augment:
                frames = torch.arange(input_features.shape[-1], device=input_features.device)
                attention_mask = (frames < count_real_frames(input_features, attention_mask)[:, None]).long()
                input_features = self._mask_input_features(input_features.clone(), attention_mask)
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
        for name, given in (
            ("decoder_input_ids", decoder_input_ids),
            ("decoder_inputs_embeds", decoder_inputs_embeds),
        ):
            if given is not None and len(given) != len(encoder_outputs.expert_weights):
                raise ValueError(
                    f"`{name}` (made from `labels` in training) must have a row for each of the "
                    f"{len(encoder_outputs.expert_weights)} utterances, got {len(given)}."
                )
        encoder_states = whole_context(encoder_outputs, self.config)
        if encoder_outputs.mixture_weights is not None:
            # (batch * k, positions, d_model); (batch, positions, d_model) if routed layers repeat the rows per expert
            alike = self.config.router_layer == self.config.encoder_layers
            routed = {"k_proj", "v_proj"} <= set(self.config.target_modules)
            encoder_states = encoder_states[:, 0] if alike and routed else encoder_states.flatten(0, 1)
            k = encoder_outputs.mixture_weights.shape[1]
            decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, decoder_position_ids = (
                None if value is None else value.repeat_interleave(k, dim=0)
                for value in (decoder_input_ids, decoder_attention_mask, decoder_inputs_embeds, decoder_position_ids)
            )
        continues = past_key_values is not None and past_key_values.get_seq_length() > 0
        self.decoder.state.set(encoder_outputs.expert_weights, continues=continues)
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_states,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
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


class MoeWhisperForConditionalGeneration(
    MoeWhisperPreTrainedModel, MoeGenerationMixin, WhisperForConditionalGeneration
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

    @classmethod
    def from_base(
        cls, base: str | Path | WhisperForConditionalGeneration, **config
    ) -> "MoeWhisperForConditionalGeneration":
        """Put fresh experts and a fresh router on a Whisper checkpoint; the result computes the same as the base.

        Args:
            base: Hub id, folder, or model.
            config: fields of [`MoeWhisperConfig`] that differ from its defaults.
        Raises:
            ValueError: the base is quantised.
        """
        if not isinstance(base, WhisperForConditionalGeneration):
            base = WhisperForConditionalGeneration.from_pretrained(base)
        if getattr(base, "is_quantized", False):
            raise ValueError(f"{MERGE_RULE}, got `base` with {base.config.quantization_config.quant_method}.")
        inherited = base.config.to_dict()
        for name in ("architectures", "folded_weights"):  # of a mixture that was read as a plain Whisper
            inherited.pop(name, None)
        inherited["base_model_name_or_path"] = base.name_or_path or None
        model = cls(MoeWhisperConfig(**{**inherited, **config})).to(base.dtype)
        model.load_state_dict(base.state_dict(), strict=False)
        model.generation_config = copy.deepcopy(base.generation_config)
        model.name_or_path = base.name_or_path
        return model.eval()

    @classmethod
    def from_experts(
        cls,
        base: str | Path | WhisperForConditionalGeneration,
        adapters: list[str | Path] | str | Path,
        router: str | Path | UtteranceRouter | None = None,
        **config,
    ) -> "MoeWhisperForConditionalGeneration":
        """Assemble a mixture from PEFT adapters of one base model.

        Args:
            base: Hub id, folder, or model.
            adapters: folders of PEFT LoRA adapters, one per expert, or the folder of `expert_0`, `expert_1` and so on.
            router: folder or object; an untrained router if None.
            config: other fields of [`MoeWhisperConfig`].
        Raises:
            ValueError: an adapter has layers below the router, or the router has another number of experts.
        """
        if isinstance(adapters, (str, Path)):
            adapters = sorted(Path(adapters).glob("expert_*"), key=lambda folder: int(folder.name.split("_")[1]))
        if not adapters:
            raise ValueError("`adapters` must name at least one PEFT adapter, got none.")
        stacked, rank, scaling = stack_adapters([load_adapter(Path(folder)) for folder in adapters])
        if isinstance(router, (str, Path)):
            router, config["router_layer"] = UtteranceRouter.load(router)
        if router is not None:
            config["router_hidden_size"] = router.hidden.out_features
            if router.output.out_features != len(adapters):
                raise ValueError(f"`router` must score {len(adapters)} experts, got {router.output.out_features}.")
        model = cls.from_base(
            base,
            num_experts=len(adapters),
            lora_rank=rank,
            lora_alpha=scaling * rank,
            target_modules=sorted({name.rsplit(".", 1)[-1] for name in stacked}),
            shared_expert=False,
            **config,
        )
        model.load_experts(stacked)
        if router is not None:
            model.model.encoder.router.load_state_dict(router.state_dict())
        return model

    @torch.no_grad()
    def load_experts(self, stacked: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Set `lora_a (experts, rank, in)` and `lora_b (experts, out, rank)` of the named modules, zero in others."""
        layers = self.routed_layers()
        unknown = sorted(stacked.keys() - layers.keys())
        if unknown:
            raise ValueError(
                f"experts must be above encoder layer {self.config.router_layer}, which the router reads; got weights "
                f"for {unknown[0]} and {len(unknown) - 1} more. Train adapters on the layers above, or lower "
                "`router_layer`."
            )
        for name, layer in layers.items():
            if name in stacked:
                for parameter, value in zip((layer.lora_a, layer.lora_b), stacked[name], strict=True):
                    if value.shape != parameter.shape:
                        raise ValueError(
                            f"experts must fit their base model: {name} takes {tuple(parameter.shape)}, "
                            f"got {tuple(value.shape)}."
                        )
                    parameter.copy_(value)
            else:
                layer.lora_b.zero_()

    def save_experts(self, folder: str | Path) -> list[Path]:
        """Write each expert, with the shared one, as a PEFT adapter `expert_<i>`; returns the folders."""
        folders = []
        for expert in range(self.config.num_experts):
            lora = {}
            for name, layer in self.routed_layers().items():
                slots = self._slots_of(expert)
                # Two LoRAs together are one LoRA of twice the rank: [B_i B_s] [A_i; A_s].
                lora[name] = (layer.lora_a[slots].flatten(0, 1), torch.cat([layer.lora_b[i] for i in slots], dim=1))
            folders.append(Path(folder) / f"expert_{expert}")
            save_adapter(
                folders[-1],
                lora,
                scaling=self.config.lora_alpha / self.config.lora_rank,
                base_model=self.config.base_model_name_or_path,
            )
        return folders

    @torch.no_grad()
    def merge_expert(self, expert: int) -> WhisperForConditionalGeneration:
        """A plain Whisper with one expert (and the shared one) merged into its weights."""
        if not 0 <= expert < self.config.num_experts:
            raise ValueError(f"`expert` must lie in [0, {self.config.num_experts - 1}], got {expert}.")
        fields = self.config.to_dict()
        own = MoeWhisperConfig().to_dict().keys() - WhisperConfig().to_dict().keys()
        for name in own | {"auto_map", "architectures"}:
            fields.pop(name, None)
        merged = WhisperForConditionalGeneration(WhisperConfig(**fields)).to(self.dtype)
        state = stock_weights(self)
        chosen = [float(i == expert) for i in range(self.config.num_experts)]
        for name, layer in self.routed_layers().items():
            state[f"{name}.weight"] = layer.plain_weight + layer.delta(self.left_to_add(chosen))
        merged.load_state_dict(state)
        merged.generation_config = copy.deepcopy(self.generation_config)
        return merged.to(self.device).eval()

    def _slots_of(self, expert: int) -> list[int]:
        return [expert, self.config.num_experts] if self.config.shared_expert else [expert]

    def embed(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The router's input: mean over real frames after `router_layer`, `(batch, d_model)` in float32."""
        if not self.training:
            input_features, attention_mask = self.fit_inputs(input_features, attention_mask)
        return self.model.encoder.embed(input_features, self.config.router_layer, attention_mask)

    def route(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The router's gates, `(batch, experts)`, before hard or top-k selection."""
        return self.model.encoder.gates(self.model.encoder.router(self.embed(input_features, attention_mask)))

    def fit_inputs(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple:
        """Features and mask in this model's audio context, so that gates do not depend on the caller's padding."""
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
        expert_weights=None,
        num_items_in_batch=None,
        fit_audio_context=None,
        trunk_states=None,
        **kwargs,
    ) -> MoeSeq2SeqLMOutput:
        """Stock Whisper's forward pass with routing.

        Args:
            input_features: `(batch, num_mel_bins, frames)`, an even number of frames up to 3000.
            attention_mask: `(batch, frames)`, optional.
            labels: `(batch, tokens)`, -100 is ignored.
            expert_weights: `(batch, experts)`, or one row for all, used instead of the router's choice.
            num_items_in_batch: number of tokens over which `Trainer` averages the loss.
            fit_audio_context: cut or extend the features to the configured audio context, so that the result does not
                depend on their padding. Default: in evaluation only; in training the collator does it.
            trunk_states: result of `expert_losses` for these features, so that it is not computed again.
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
        encoded = outputs.encoder_outputs
        loss = None
        expert_losses = None
        mixture_weights = encoded.mixture_weights
        weights = encoded.expert_weights
        looks = {
            name: getattr(outputs, name)
            for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions")
        }
        if mixture_weights is not None:
            looks = {name: mean_of_experts(layers, mixture_weights) for name, layers in looks.items()}
            # (batch, k, tokens, vocab_size)
            log_probs = logits.unflatten(0, mixture_weights.shape).float().log_softmax(-1)
            logits = mix_probabilities(log_probs, mixture_weights)
            weights = (weights * mixture_weights[..., None]).sum(1)
        if labels is not None and mixture_weights is not None:
            tokens = (labels != -100).sum(-1)
            summed = summed_losses(log_probs, labels)
            expert_losses = summed / tokens.clamp(min=1)[:, None]
        if labels is not None and mixture_weights is not None and self.training:
            loss = (mixture_weights * summed).sum() / (
                tokens.sum() if num_items_in_batch is None else num_items_in_batch
            )
        elif labels is not None:
            loss = token_loss(logits, labels, num_items_in_batch)
        return MoeSeq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            **looks,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
            router_logits=encoded.router_logits,
            gates=encoded.gates,
            expert_weights=weights,
            expert_losses=expert_losses,
        )

    @torch.no_grad()
    def expert_losses(
        self, input_features: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean token loss of every utterance with every expert, without gradients or dropout.

        Call this before the forward pass of the training step, because it also sets the routing state.

        Returns:
            losses `(batch, experts)`, and the encoder's `trunk_states` for that forward pass, or None if they would
            be different there.
        """
        training = [module for module in self.modules() if module.training]
        trunk = [
            self.model.encoder.conv1,
            self.model.encoder.conv2,
            *self.model.encoder.layers[: self.config.router_layer],
        ]
        varies = (
            self.config.dropout
            or self.config.attention_dropout
            or self.config.activation_dropout
            or self.config.apply_spec_augment
            or any(p.requires_grad for module in trunk for p in module.parameters())
        )
        self.eval()
        every = input_features.new_ones(1, self.config.num_experts)
        try:
            with self.override(mixture="logits"):
                trunk_states = self.model.encoder.trunk(input_features)
                outputs = self.model(
                    input_features,
                    attention_mask,
                    labels_to_decoder_input(labels, self.config),
                    expert_weights=every,
                    trunk_states=trunk_states,
                    use_cache=False,
                )
        finally:
            for module in training:
                module.training = True
        states = outputs.last_hidden_state.unflatten(0, (len(labels), -1))  # (batch, experts, tokens, d_model)
        # One expert after the other: the vocabulary of all at once would take more memory than the training step.
        summed = [summed_losses(self.proj_out(s).float().log_softmax(-1), labels) for s in states.split(1, dim=1)]
        losses = torch.cat(summed, dim=1) / (labels != -100).sum(-1).clamp(min=1)[:, None]
        return losses, None if varies else trunk_states

    @contextmanager
    def override(self, **fields):
        """Change configuration fields (`routing`, `mixture`, `experts_per_utterance` and others) in a `with` block."""
        before = {name: getattr(self.config, name) for name in fields}
        try:
            self._set_fields(fields)
            yield self
        finally:
            self._set_fields(before, check=False)

    def _set_fields(self, fields: dict, check: bool = True) -> None:
        for name, value in fields.items():
            setattr(self.config, name, value)
        if check:
            self.config.check()


def add_routed_lora(layers: nn.ModuleList, config: MoeWhisperConfig, state: RoutingState, first: int = 0) -> None:
    """Replace all linear layers by `RoutedLinear`, with experts in the target modules from layer `first` on."""
    slots = config.num_experts + config.shared_expert  # the shared expert is the last slot
    for index, layer in enumerate(layers):
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if name in TARGETS and type(child) is nn.Linear:
                    experts = slots if index >= first and name in config.target_modules else 0
                    scaling = config.lora_alpha / config.lora_rank
                    routed = RoutedLinear(child, experts, config.lora_rank, scaling, config.lora_dropout, state)
                    setattr(parent, name, routed)


# A checkpoint names the weights of linear layers as stock Whisper does.
for model_class in (MoeWhisperModel, MoeWhisperForConditionalGeneration):
    register_checkpoint_conversion_mapping(
        model_class.__name__,
        [WeightRenaming(rf"({'|'.join(TARGETS)})\.(?!linear\.|lora_)", r"\1.linear.")],
        overwrite=True,
    )

MoeWhisperModel.register_for_auto_class("AutoModel")
MoeWhisperForConditionalGeneration.register_for_auto_class("AutoModelForSpeechSeq2Seq")
