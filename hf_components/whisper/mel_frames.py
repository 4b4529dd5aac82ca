"""Whisper's mel frames: which are audio, which are the padding after it, and what silence looks like."""

import torch

# Log-mel features are (log10(power) + 4) / 4, over at most 8 powers of ten and cut at 1e-10 (openai-whisper audio.py).
DYNAMIC_RANGE, LOWEST = 2.0, -1.5
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
