"""A self-supervised speech encoder, cut after one of its layers."""

import functools

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging

from .configuration_acoustic_units import AcousticUnitsConfig
from .whisper_encoder import WHISPER, build_whisper, load_whisper, whisper_hidden_states

LOG_MEL = "wav2vec2-bert"
FBANK_WINDOW, FBANK_HOP = 400, 160  # samples of the log-mel features of w2v-BERT, two per frame
UNUSED = "masked_spec_embed"  # SpecAugment's vector, for training only


def build_encoder(config: AcousticUnitsConfig) -> PreTrainedModel:
    """The encoder up to `config.layer`, with random weights."""
    cut = _cut(config)
    return _without_last_norm(build_whisper(cut) if cut.model_type == WHISPER else AutoModel.from_config(cut))


def load_encoder(name_or_path: str, config: AcousticUnitsConfig) -> PreTrainedModel:
    """The encoder up to `config.layer`; weights of later layers are not read.

    Raises:
        ValueError: the checkpoint lacks weights.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # the weights of later layers would be reported as unexpected
    try:
        load = load_whisper if config.encoder_config["model_type"] == WHISPER else _load
        encoder, missing = load(name_or_path, _cut(config))
    finally:
        logging.set_verbosity(verbosity)
    if missing := [name for name in missing if not name.endswith(UNUSED)]:
        raise ValueError(f"{name_or_path} is not a checkpoint of {type(encoder).__name__}: it lacks {min(missing)}.")
    return _without_last_norm(encoder)


def _load(name_or_path: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The encoder, and the names of weights that the checkpoint lacks."""
    encoder, found = AutoModel.from_pretrained(
        name_or_path, config=config, dtype=torch.float32, output_loading_info=True
    )
    return encoder, found["missing_keys"]


def wants_normalized(name_or_path: str, config: PreTrainedConfig) -> bool:
    """Whether the encoder was trained on waveforms of zero mean and unit variance; its feature extractor records it.

    Raises:
        OSError: there is no feature extractor.
    """
    if config.model_type in (LOG_MEL, WHISPER):  # their features are normalised instead
        return False
    return Wav2Vec2FeatureExtractor.from_pretrained(name_or_path).do_normalize


def hidden_states(
    encoder: PreTrainedModel,
    waveforms: torch.Tensor,
    lengths: torch.Tensor,
    num_frames: torch.Tensor,
    do_normalize: bool,
) -> torch.Tensor:
    """The encoder's output for a padded batch; each clip gets the same values as alone.

    Args:
        waveforms: `(batch, samples)` at 16 kHz.
        lengths, num_frames: samples and frames of each clip `(batch,)`.
        do_normalize: first scale each clip to zero mean and unit variance.
    Returns:
        `(batch, frames, dim)`; frames after the end of a clip are meaningless.
    """
    if encoder.config.model_type == WHISPER:
        return whisper_hidden_states(encoder, waveforms, num_frames)
    if encoder.config.model_type == LOG_MEL:
        features = _fbank(waveforms, num_frames).to(encoder.device, encoder.dtype)
        mask = torch.arange(features.shape[1], device=features.device) < num_frames[:, None]
        return encoder(features, attention_mask=mask).last_hidden_state
    mask = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
    if do_normalize:
        waveforms = _normalize(waveforms, mask, lengths)
    waveforms = waveforms.masked_fill(~mask, 0).to(encoder.dtype)
    if bool(mask.all()):
        return encoder(waveforms).last_hidden_state
    if _may_be_padded(encoder.config):
        return encoder(waveforms, attention_mask=mask.long()).last_hidden_state
    alone = [
        encoder(clip[None, :length]).last_hidden_state[0] for clip, length in zip(waveforms, lengths, strict=True)
    ]
    return nn.utils.rnn.pad_sequence(alone, batch_first=True)


def _cut(config: AcousticUnitsConfig) -> PreTrainedConfig:
    # SpecAugment and the adapter of translation models are not used; whoever loads the weights chooses their type.
    unused = {
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "add_adapter": False,
        "use_intermediate_ffn_before_adapter": False,
        "dtype": None,
    }
    fields = {
        **config.encoder_config,
        **{name: value for name, value in unused.items() if name in config.encoder_config},
    }
    if fields["model_type"] == WHISPER:
        cut = {"encoder_layers": config.layer, "decoder_layers": 0, "encoder_layerdrop": 0.0}
    else:
        cut = {"num_hidden_layers": config.layer}
    return AutoConfig.for_model(**{**fields, **cut})


def _without_last_norm(encoder: PreTrainedModel) -> PreTrainedModel:
    """Remove the norm after the last layer, which encoders with a norm at the start of each layer have."""
    if encoder.config.model_type == WHISPER:
        encoder.layer_norm = nn.Identity()
    if getattr(encoder.config, "do_stable_layer_norm", False):  # w2v-BERT lacks this option
        encoder.encoder.layer_norm = nn.Identity()
    return encoder


def _may_be_padded(config: PreTrainedConfig) -> bool:
    """Whether padding leaves a clip unchanged: group norm includes it in statistics, batch norm makes it nonzero."""
    return config.feat_extract_norm == "layer" and not getattr(config, "conv_pos_batch_norm", False)


def _normalize(waveforms: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The same as `Wav2Vec2FeatureExtractor`, over the clip's own samples."""
    mean = waveforms.masked_fill(~mask, 0).sum(1) / lengths
    centred = (waveforms - mean[:, None]).masked_fill(~mask, 0)
    return centred / (centred.square().sum(1) / lengths + 1e-7).sqrt()[:, None]


def _fbank(waveforms: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """Log-mel features `(batch, frames, 160)` of w2v-BERT; 10 ms of silence complete the last pair if needed."""
    samples = FBANK_WINDOW + FBANK_HOP * (2 * num_frames - 1)
    clips = [
        nn.functional.pad(clip, (0, max(0, int(count) - len(clip))))[:count].cpu().numpy()
        for clip, count in zip(waveforms.float(), samples, strict=True)
    ]
    return _fbank_extractor()(clips, sampling_rate=16_000, return_tensors="pt").input_features


@functools.cache
def _fbank_extractor() -> SeamlessM4TFeatureExtractor:
    return SeamlessM4TFeatureExtractor()
