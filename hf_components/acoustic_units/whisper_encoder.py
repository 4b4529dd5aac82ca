"""Whisper's encoder on audio of any length: features for acoustic units, without the padding to 30 seconds."""

import functools

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, WhisperModel
from transformers.audio_utils import mel_filter_bank
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

WHISPER = "whisper"
MEL_WINDOW, MEL_HOP = 400, 160  # samples; two mel frames per encoder frame
QUIETEST, RANGE = 1e-10, 8.0  # of a mel band: least power, and powers of ten below the loudest of the clip


def build_whisper(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder with random weights."""
    return WhisperEncoder(config)


def load_whisper(name_or_path: str, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The encoder of a Whisper, and the names of weights that the checkpoint lacks."""
    whole, found = WhisperModel.from_pretrained(
        name_or_path, config=config, dtype=torch.float32, output_loading_info=True
    )
    return whole.encoder, found["missing_keys"]


def whisper_hidden_states(encoder: PreTrainedModel, waveforms: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
    """The output of the encoder's last layer, before the norm that follows it.

    A clip that is longer than Whisper sees (30 s) is cut: each piece is encoded alone. Mel frames are those of the
    units' grid: an encoder frame is centred on the same sample as one of wav2vec2, 100 samples after that of Whisper's
    own feature extractor.

    Args:
        waveforms: `(batch, samples)` at 16 kHz.
        num_frames: frames of each clip `(batch,)`.
    Returns:
        `(batch, frames, dim)`; frames after the end of a clip are meaningless.
    """
    longest = encoder.config.max_source_positions
    clips = [
        log_mel(clip, int(count), encoder.config.num_mel_bins)
        for clip, count in zip(waveforms, num_frames, strict=True)
    ]
    pieces = [piece for clip in clips for piece in clip.split(2 * longest)]
    lengths = torch.tensor([len(piece) // 2 for piece in pieces], device=encoder.device)
    mels = nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(encoder.device, encoder.dtype)
    encoded = iter(_encode(encoder, mels, lengths))
    joined = [torch.cat([next(encoded)[: len(piece) // 2] for piece in clip.split(2 * longest)]) for clip in clips]
    return nn.utils.rnn.pad_sequence(joined, batch_first=True)


def _encode(encoder: PreTrainedModel, mels: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """`(pieces, frames, dim)` of mel frames `(pieces, 2 * frames, bins)`: each piece as if it were alone."""
    real = torch.arange(mels.shape[1] // 2, device=mels.device) < lengths[:, None]
    # A convolution pads with zeros. So what is after the end must be zero before the second one, too.
    hidden = nn.functional.gelu(encoder.conv1(mels.mT)) * real.repeat_interleave(2, dim=1)[:, None]
    hidden = nn.functional.gelu(encoder.conv2(hidden)).mT
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    mask = create_bidirectional_mask(encoder.config, hidden, real.long())
    for layer in encoder.layers:
        hidden = layer(hidden, mask)
    return hidden


def log_mel(waveform: torch.Tensor, num_frames: int, num_mel_bins: int) -> torch.Tensor:
    """Whisper's log-mel features `(2 * num_frames, num_mel_bins)` of the start of a clip.

    The first frame starts with the first sample; silence completes the last one if needed.
    """
    samples = MEL_WINDOW + MEL_HOP * (2 * num_frames - 1)
    waveform = nn.functional.pad(waveform.float(), (0, max(0, samples - len(waveform))))[:samples]
    window, filters = _tables(num_mel_bins, waveform.device)
    power = torch.fft.rfft(waveform.unfold(0, MEL_WINDOW, MEL_HOP) * window).abs().square()
    levels = (power @ filters).clamp_min(QUIETEST).log10()
    return (levels.clamp_min(levels.max() - RANGE) + 4) / 4


@functools.cache
def _tables(num_mel_bins: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Hann window, and mel filters `(bins, num_mel_bins)`."""
    filters = mel_filter_bank(
        MEL_WINDOW // 2 + 1, num_mel_bins, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(MEL_WINDOW, device=device), torch.from_numpy(filters).float().to(device)
