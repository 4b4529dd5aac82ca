"""Whisper on short audio: an encoder for 2 to 3000 mel frames, and a `generate` that uses it.

Whisper needs the silence after a clip. If it is cut off, the attention to it moves to the speech, and the decoder
repeats itself. All of this silence is alike, so a few positions represent it: if log n is added to the score of a key,
it counts as n equal keys in the softmax. With 3000 frames there is no silence to represent, and the model is stock.

This file and `moe_generation` override private methods of transformers' Whisper, so its version is checked.
State dict and configuration are those of stock Whisper.
"""

import copy
import logging
import math
from dataclasses import dataclass

import torch
import transformers
from packaging import version
from torch import nn
from transformers import LogitsProcessor, WhisperConfig, WhisperForConditionalGeneration, WhisperModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention, WhisperDecoder, WhisperEncoder, sinusoids
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .least_risk import LeastRiskMixin

logger = logging.getLogger(__name__)

SUPPORTED = (version.parse("5.23"), version.parse("5.24"))
HOOKS = (
    "_get_input_segment",
    "_get_candidate_generator",
    "_get_logits_processor",
    "_maybe_prepare_encoder_kwargs_for_generation",
    "_postprocess_outputs",
    "_prepare_static_cache",
    "_retrieve_max_frames_and_seek",
    "_stack_split_outputs",
)


def check_transformers(found: str = transformers.__version__, whisper: type = WhisperForConditionalGeneration) -> None:
    """Refuse a transformers without the private methods that are overridden here; warn of an untested newer one."""
    rule = f"this model overrides private methods of Whisper in transformers >= {SUPPORTED[0]}, < {SUPPORTED[1]}"
    remedy = f"pip install 'transformers=={SUPPORTED[0]}.*'"
    lost = [name for name in HOOKS if not hasattr(whisper, name)]
    if version.parse(found) < SUPPORTED[0] or lost:
        raise ImportError(f"{rule}; found {found}{', which lacks ' + lost[0] if lost else ''}. {remedy}")
    if version.parse(found) >= SUPPORTED[1]:
        logger.warning(f"{rule}; found {found}, which was not tested. If transcripts are wrong: {remedy}")


check_transformers()

# Log-mel features are (log10(power) + 4) / 4, over at most 8 powers of ten and cut at 1e-10 (openai-whisper audio.py).
DYNAMIC_RANGE, LOWEST = 2.0, -1.5
SILENT_SHARE = 100  # 1 / this of the positions of a full window represent the silence after shorter audio
TAKE_BIAS = ("eager", "sdpa")  # attention that can add to scores; with any other the encoder gets the full window
EDGE_FRAMES = 8  # silent frames for the convolutions: from the third silent position on, they see no audio
OVERHANG = 2  # frames after a clip's end that are not silent, because their window of 25 ms begins before it


def count_real_frames(input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Number of mel frames before the padding at the end.

    A frame is padding if all its mel bins are equal and no later frame is real: digital silence from Whisper's feature
    extractor, or the zeros that `generate` appends.

    Args:
        input_features: `(batch, num_mel_bins, frames)`.
        attention_mask: `(batch, frames)`; used instead of the features if its length equals theirs.
    Returns:
        `(batch,)` long, each at least 1.
    """
    frames = input_features.shape[-1]
    if attention_mask is not None and attention_mask.shape[-1] == frames:
        is_real = attention_mask.bool()
    else:
        is_real = (input_features != input_features[:, :1]).any(dim=1)  # (batch, frames)
    positions = torch.arange(1, frames + 1, device=input_features.device)
    return (is_real * positions).amax(dim=-1).clamp(min=1)


def audio_mask(input_features: torch.Tensor) -> torch.Tensor:
    """The mask `(batch, frames)` that Whisper's feature extractor gives for a clip, found from its features."""
    frames = input_features.shape[-1]
    real = count_real_frames(input_features)
    ends = torch.where(real < frames, (real - OVERHANG).clamp(min=1), real)
    return (torch.arange(frames, device=input_features.device) < ends[:, None]).long()


def silence_of(input_features: torch.Tensor) -> torch.Tensor:
    """The value of silence in features `(batch, num_mel_bins, frames)` of Whisper's extractor, `(batch, 1, 1)`."""
    return (input_features.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE).clamp(min=LOWEST)


def fit_audio_context(input_features: torch.Tensor, frames: int, silence: torch.Tensor | None = None) -> torch.Tensor:
    """Cut features to `frames`, or extend them with the silence that Whisper's feature extractor pads with.

    Args:
        input_features: `(batch, num_mel_bins, any)`.
        frames: mel frames of the result.
        silence: `silence_of` the whole recording, if `input_features` are a part of it; computed from them if None.
    Returns:
        `(batch, num_mel_bins, frames)`.
    """
    missing = frames - input_features.shape[-1]
    if missing <= 0:
        return input_features[..., :frames]
    silence = silence_of(input_features) if silence is None else silence
    return torch.cat([input_features, silence.expand(-1, input_features.shape[1], missing)], dim=-1)


def pool_real_frames(hidden_states: torch.Tensor, real_frames: torch.Tensor) -> torch.Tensor:
    """Mean of encoder states over the positions of real audio.

    Args:
        hidden_states: `(batch, positions, d_model)`, two mel frames per position.
        real_frames: `(batch,)` mel frames.
    Returns:
        `(batch, d_model)` in float32.
    """
    real_positions = ((real_frames + 1) // 2).clamp(max=hidden_states.shape[1])
    mask = torch.arange(hidden_states.shape[1], device=hidden_states.device) < real_positions[:, None]
    return (hidden_states.float() * mask[..., None]).sum(1) / real_positions[:, None]


def silent_positions(config: WhisperConfig) -> int:
    """Number of positions that represent the silence after audio that is shorter than the window."""
    return max(1, config.max_source_positions // SILENT_SHARE)


@dataclass
class DynamicContextOutput(BaseModelOutput):
    """An encoder's states of the audio, and those that represent the silence up to the end of the window.

    Hidden states and attentions are those of the audio alone, so their shapes are stock Whisper's. An attention's rows
    add up to less than 1 where silence gets the rest.

    Args:
        silent_states: `(batch, silent_positions, d_model)`; None if the audio fills the window.
    """

    silent_states: torch.FloatTensor | None = None

    @classmethod
    def from_tuple(cls, outputs: tuple) -> "DynamicContextOutput":
        """What an encoder returned with `return_dict=False`: states, and perhaps another tensor for the silence."""
        silent = next((output for output in outputs[1:] if isinstance(output, torch.Tensor)), None)
        return cls(last_hidden_state=outputs[0], silent_states=silent)


def without_silence(attentions: tuple[torch.Tensor, ...] | None, positions: int) -> tuple[torch.Tensor, ...] | None:
    """Attention to the audio, the first `positions` keys of `(..., keys)`."""
    if not attentions or attentions[0] is None or attentions[0].shape[-1] == positions:
        return attentions
    return tuple(attention[..., :positions] for attention in attentions)


def whole_context(outputs: BaseModelOutput, config: WhisperConfig) -> torch.Tensor:
    """The states of audio and silence, which a decoder attends to, `(batch, positions, d_model)`.

    Raises:
        ValueError: the states are shorter than the window, and those of the silence are missing.
    """
    states = outputs[0]
    silent = getattr(outputs, "silent_states", None)
    if silent is not None:
        return torch.cat([states, silent], dim=-2)
    if states.shape[-2] < config.max_source_positions:
        raise ValueError(
            "`encoder_outputs` must come from this model's own encoder, which adds the silence after short audio; "
            f"got {states.shape[-2]} positions of {config.max_source_positions} without it."
        )
    return states


def divide_context(states: torch.Tensor, frames: int) -> dict[str, torch.Tensor | None]:
    """Fields of a `DynamicContextOutput` from states of `frames` and silence, `(..., positions, d_model)`."""
    real = frames // 2
    return {
        "last_hidden_state": states[..., :real, :],
        "silent_states": states[..., real:, :] if real < states.shape[-2] else None,
    }


def context_bias(states: torch.Tensor, config: WhisperConfig) -> torch.Tensor | None:
    """The bias of attention scores: log of the number of positions that each key represents.

    Args:
        states: states of audio and silence, `(batch, positions, d_model)`.
    Returns:
        `(1, 1, 1, positions)`, or None if each key represents itself only.
    """
    positions = states.shape[1]
    silent = silent_positions(config)
    if positions >= config.max_source_positions:
        return None
    stands_for = (config.max_source_positions - (positions - silent)) / silent
    bias = states.new_zeros(1, 1, 1, positions)
    bias[..., positions - silent :] = math.log(stands_for)
    return bias


class ContextAttention(WhisperAttention):
    """The decoder's attention to an encoder whose last states represent silence."""

    def forward(self, hidden_states, key_value_states=None, past_key_values=None, attention_mask=None, **kwargs):
        return super().forward(
            hidden_states, key_value_states, past_key_values, context_bias(key_value_states, self.config), **kwargs
        )


def attend_to_context(decoder: WhisperDecoder) -> None:
    """Give a new, untrained decoder cross-attention that knows which encoder states represent silence."""
    config = decoder.config
    for index, layer in enumerate(decoder.layers):
        layer.encoder_attn = ContextAttention(
            config.d_model,
            config.decoder_attention_heads,
            dropout=config.attention_dropout,
            is_decoder=True,
            layer_idx=index,
            config=config,
        )


class DynamicContextEncoder(WhisperEncoder):
    """Whisper's encoder for any even number of mel frames up to `2 * max_source_positions`.

    Its layers see the frames, two per position, and then `silent_positions` for the rest of the window.
    """

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if module is self.embed_positions:
            # transformers skips these in its own encoder alone: it takes the parameters for initialised elsewhere.
            init.copy_(module.weight, sinusoids(*module.weight.shape))

    @can_return_tuple
    def forward(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> DynamicContextOutput:
        """Encode `(batch, num_mel_bins, frames)` to `(batch, frames / 2, d_model)`; the mask is not used."""
        return self.show_audio(self.encode(input_features, attention_mask, **kwargs, return_dict=True))

    @merge_with_config_defaults
    @capture_outputs
    def encode(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> DynamicContextOutput:
        """The same as `forward`, with hidden states and attentions of audio and silence."""
        hidden_states = self.run_layers(self.embed_frames(input_features), self.layers, **kwargs)
        return DynamicContextOutput(**divide_context(self.layer_norm(hidden_states), input_features.shape[-1]))

    def show_audio(self, outputs: DynamicContextOutput) -> DynamicContextOutput:
        """The outputs of `encode` with hidden states and attentions cut to the audio."""
        real = outputs.last_hidden_state.shape[-2]
        if outputs.silent_states is not None and outputs.hidden_states is not None:
            outputs.hidden_states = tuple(states[..., :real, :] for states in outputs.hidden_states)
        if outputs.silent_states is not None and outputs.attentions and outputs.attentions[0] is not None:
            outputs.attentions = tuple(attention[..., :real, :real] for attention in outputs.attentions)
        return outputs

    def embed_frames(self, input_features: torch.Tensor) -> torch.Tensor:
        """Convolutions and position embeddings: `(batch, num_mel_bins, frames)` to `(batch, positions, d_model)`."""
        frames = input_features.shape[-1]
        longest = 2 * self.max_source_positions
        if frames % 2 or not 2 <= frames <= longest:
            raise ValueError(
                f"`input_features` must have an even number of mel frames in [2, {longest}], got {frames}."
            )
        real = frames // 2
        window = self.max_source_positions
        silent = silent_positions(self.config)
        if real > window - silent or self.config._attn_implementation not in TAKE_BIAS:
            real = window
        input_features = fit_audio_context(input_features, 2 * real + (EDGE_FRAMES if real < window else 0))
        hidden_states = nn.functional.gelu(self.conv1(input_features))
        hidden_states = nn.functional.gelu(self.conv2(hidden_states)).transpose(1, 2)
        heard = torch.arange(real, device=hidden_states.device)
        if real < window:
            centres = real + (torch.arange(silent, device=heard.device) + 0.5) * (window - real) / silent
            silence = hidden_states[:, real + 2 : real + 3].expand(-1, silent, -1)
            heard = torch.cat([heard, centres.long()])
            hidden_states = torch.cat([hidden_states[:, :real], silence], dim=1)
        hidden_states = hidden_states + self.embed_positions.weight[heard]
        return nn.functional.dropout(hidden_states, p=self.dropout, training=self.training)

    def run_layers(self, hidden_states: torch.Tensor, layers: nn.ModuleList, **kwargs) -> torch.Tensor:
        bias = context_bias(hidden_states, self.config)
        for layer in layers:
            hidden_states = layer(hidden_states, bias, **kwargs)
        return hidden_states

    def embed(
        self, input_features: torch.Tensor, layer: int, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Mean over real frames of the hidden states after `layer` layers, `(batch, d_model)` in float32."""
        hidden_states = self.run_layers(self.embed_frames(input_features), self.layers[:layer])
        return pool_real_frames(hidden_states, count_real_frames(input_features, attention_mask))


class TimestampsWithinAudio(LogitsProcessor):
    """Forbids timestamp tokens after the end of the audio.

    Args:
        first: token of 0.00 s; each next one is 0.02 s later.
        ends: greatest number of such steps for each utterance, `(batch,)`.
    """

    def __init__(self, first: int, ends: torch.Tensor):
        self.first = first
        self.ends = ends

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores `(rows, vocab_size)`, several neighbouring rows for an utterance with beams."""
        ends = self.ends.to(scores.device).repeat_interleave(scores.shape[0] // len(self.ends))
        tokens = torch.arange(scores.shape[1], device=scores.device)
        return scores.masked_fill(tokens > self.first + ends[:, None], -torch.inf)


class DynamicContextGenerationMixin(LeastRiskMixin):
    """`generate` for a Whisper whose encoder takes short input; see `set_audio_context`."""

    def set_audio_context(self, audio_context: str, min_audio_context: int = 1000) -> None:
        """Set the input of the encoder in `generate`.

        Args:
            audio_context: "dynamic" cuts each batch of segments to its speech, "full" keeps 30 s.
            min_audio_context: least mel frames of a dynamic context.
        """
        if audio_context not in ("dynamic", "full"):
            raise ValueError(f"`audio_context` must be dynamic or full, got {audio_context!r}.")
        self.audio_context = audio_context
        self.min_audio_context = min_audio_context

    def prepare_audio_context(
        self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fit features `(batch, num_mel_bins, frames)`, at most their first 30 s, to this model's audio context."""
        frames = 2 * self.config.max_source_positions
        if self.audio_context == "dynamic":
            longest = int(count_real_frames(input_features, attention_mask).max())
            frames = min(frames, max(longest + longest % 2, self.min_audio_context + self.min_audio_context % 2))
        return fit_audio_context(input_features, frames)

    def generate(
        self,
        input_features=None,
        generation_config=None,
        *args,
        attention_mask=None,
        least_risk: bool | None = None,
        **kwargs,
    ):
        """Stock Whisper's `generate` in this model's audio context.

        In a dynamic context it ends where the audio ends, found from the features if there is no `attention_mask`, and
        no timestamp lies after that. `least_risk` chooses among the texts of a beam search by their risk, see
        `choose_least_risk`; by default only if the generation config says so.
        """
        if least_risk is not None:
            generation_config = copy.deepcopy(generation_config or self.generation_config)
            generation_config.least_risk = least_risk
        given = attention_mask is not None and input_features is not None
        fits = given and attention_mask.shape[-1] == input_features.shape[-1]
        if self.audio_context == "dynamic" and input_features is not None and not fits:
            attention_mask = audio_mask(input_features)
        return super().generate(input_features, generation_config, *args, attention_mask=attention_mask, **kwargs)

    def _retrieve_max_frames_and_seek(self, batch_size, attention_mask, total_input_frames, is_shortform):
        # Stock Whisper hears short audio to the end of its padding.
        if self.audio_context == "dynamic" and attention_mask is not None:
            is_shortform = False
            if batch_size == 1:
                total_input_frames = int(attention_mask.sum())
        return super()._retrieve_max_frames_and_seek(batch_size, attention_mask, total_input_frames, is_shortform)

    def _get_input_segment(self, input_features, seek, seek_num_frames, num_segment_frames, cur_bsz, batch_idx_map):
        # Stock Whisper pads each segment with zeros to 3000 frames.
        if input_features is None:
            return None
        segments = []
        silence = silence_of(input_features)
        overhang = OVERHANG if self.audio_context == "dynamic" else 0
        for row, original in enumerate(batch_idx_map[:cur_bsz]):
            end = seek[original] + seek_num_frames[original] + overhang
            segment = input_features[row : row + 1, :, seek[original] : end]
            segments.append(fit_audio_context(segment, num_segment_frames, silence[row : row + 1]))
        return self.prepare_audio_context(torch.cat(segments))

    def _get_logits_processor(self, generation_config, *args, encoder_input_ids=None, **kwargs):
        processors = super()._get_logits_processor(
            generation_config, *args, encoder_input_ids=encoder_input_ids, **kwargs
        )
        timestamps = getattr(generation_config, "return_timestamps", False) is True
        if timestamps and self.audio_context == "dynamic" and encoder_input_ids is not None:
            first = generation_config.no_timestamps_token_id + 1
            # Before Whisper's own processor, which adds up the probabilities of the timestamps that are left.
            processors.insert(0, TimestampsWithinAudio(first, audio_mask(encoder_input_ids).sum(-1) // 2))
        return processors

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor, model_kwargs, *args):
        # The mask belongs to the whole batch; segments start later, and finished rows leave the batch.
        model_kwargs = {name: value for name, value in model_kwargs.items() if name != "attention_mask"}
        return super()._maybe_prepare_encoder_kwargs_for_generation(inputs_tensor, model_kwargs, *args)

    def _prepare_static_cache(self, cache_implementation, batch_size, max_cache_len, prefill_chunk_size, model_kwargs):
        context = whole_context(model_kwargs["encoder_outputs"], self.config)
        return super()._prepare_static_cache(
            cache_implementation,
            batch_size,
            max_cache_len,
            prefill_chunk_size,
            {**model_kwargs, "encoder_outputs": (context.flatten(0, -3),)},
        )

    def _get_candidate_generator(
        self, generation_config, input_ids, inputs_tensor, *args, assistant_model=None, **kwargs
    ):
        # An assistant without a dynamic context hears the whole window.
        if assistant_model is not None and not hasattr(assistant_model, "prepare_audio_context"):
            inputs_tensor = fit_audio_context(inputs_tensor, 2 * self.config.max_source_positions)
        return super()._get_candidate_generator(
            generation_config, input_ids, inputs_tensor, *args, assistant_model=assistant_model, **kwargs
        )

    def detect_language(self, input_features=None, *args, **kwargs):
        """The same as in stock Whisper, in this model's audio context."""
        if input_features is not None:
            input_features = self.prepare_audio_context(input_features)
        return super().detect_language(input_features, *args, **kwargs)


def token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy: sum over tokens divided by the tokens of the whole accumulated global batch.

    Args:
        logits: `(rows, tokens, vocab_size)`.
        labels: `(rows, tokens)`, -100 is ignored.
        num_items_in_batch: tokens of the accumulated global batch, counted by `Trainer`; those of this batch if None.
    """
    loss = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=-100, reduction="sum"
    )
    return loss / (num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())


def one_row_each(rows: int, *values: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Tensors of one row as `rows` equal ones, since one text may be for several utterances; others unchanged."""
    return tuple(
        value.expand(rows, *value.shape[1:]) if value is not None and value.shape[0] == 1 else value
        for value in values
    )


class DynamicContextWhisperModel(WhisperModel):
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
        """The same as in stock Whisper, but the decoder also attends to the silence after the audio."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                self._mask_input_features(input_features, attention_mask=attention_mask), **kwargs
            )
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
        """The same as in stock Whisper; `num_items_in_batch` is the number of tokens that the loss is divided by."""
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


def labels_to_decoder_input(labels: torch.Tensor, config: WhisperConfig, longest: int | None = None) -> torch.Tensor:
    """The decoder's input: the start token, then the labels; -100 becomes padding.

    Args:
        longest: positions of the decoder, `config.max_target_positions` if None.
    Raises:
        ValueError: the labels are longer.
    """
    longest = config.max_target_positions if longest is None else longest
    if labels.shape[1] > longest:
        raise ValueError(f"`labels` must have at most {longest} tokens, got {labels.shape[1]}.")
    start = labels.new_full((labels.shape[0], 1), config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, config.pad_token_id)
