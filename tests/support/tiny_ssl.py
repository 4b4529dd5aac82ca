"""Tiny self-supervised speech encoders with random weights and their feature extractors, built in code."""

from pathlib import Path

import torch
from transformers import (
    AutoModel,
    HubertConfig,
    PreTrainedConfig,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
)

LAYERS = 3
SIZE = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
CONVOLUTIONS = {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}  # as XLSR-53 and WavLM large
CONFIGS = {
    "wav2vec2-large": Wav2Vec2Config(**SIZE, **CONVOLUTIONS, **LARGE),
    "wav2vec2-base": Wav2Vec2Config(**SIZE, **CONVOLUTIONS),  # group norm
    "hubert-large": HubertConfig(**SIZE, **CONVOLUTIONS, **LARGE),
    "hubert-batch-norm": HubertConfig(**SIZE, **CONVOLUTIONS, feat_extract_norm="layer", conv_pos_batch_norm=True),
    "wavlm-large": WavLMConfig(**SIZE, **CONVOLUTIONS, **LARGE, num_buckets=8, max_bucket_distance=16),
    "wavlm-base": WavLMConfig(**SIZE, **CONVOLUTIONS, num_buckets=8, max_bucket_distance=16),
    "w2v-bert": Wav2Vec2BertConfig(**SIZE, position_embeddings_type="relative_key", conv_depthwise_kernel_size=5),
}


def save_tiny_ssl(
    folder: Path, config: PreTrainedConfig = CONFIGS["wav2vec2-large"], do_normalize: bool = True
) -> Path:
    """A checkpoint as it is published, weights and feature extractor."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # far enough from zero that layers differ
            if parameter.ndim > 1 and "parametrizations" not in name:
                parameter.mul_(6)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.bias.fill_(0.5)
    model.save_pretrained(folder)
    extractor = (
        SeamlessM4TFeatureExtractor()
        if config.model_type == "wav2vec2-bert"
        else Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    )
    extractor.save_pretrained(folder)
    return folder
