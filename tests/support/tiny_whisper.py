"""Whisper of 20k parameters that hears 2 s at once, random experts, and audio: built in code, offline.

`window=3000` gives it Whisper's 30 s.
"""

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from hf_components.whisper import MoeWhisperForConditionalGeneration

TEXT, END, START, NO_TIMESTAMPS = 90, 90, 91, 95  # tokens below TEXT are text; timestamps follow NO_TIMESTAMPS
WINDOW = 200  # mel frames, 2 s
VOCAB = NO_TIMESTAMPS + 1 + WINDOW // 2 + 1
SPECIAL = [START, *range(START + 1, VOCAB)]  # suppressed unless a test wants timestamps
EXPERTS = 4


def tiny_base(seed: int = 0, window: int = WINDOW, **config) -> WhisperForConditionalGeneration:
    """Stock Whisper with weights large enough that outputs depend on the audio."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            **{
                "vocab_size": VOCAB,
                "num_mel_bins": 80,
                "d_model": 16,
                "encoder_layers": 3,
                "decoder_layers": 2,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "decoder_ffn_dim": 32,
                "max_source_positions": window // 2,
                "max_target_positions": 64,
                "pad_token_id": END,
                "bos_token_id": END,
                "eos_token_id": END,
                "decoder_start_token_id": START,
                "suppress_tokens": None,
                "begin_suppress_tokens": None,
                "init_std": 0.4,
                **config,
            }
        )
    ).eval()
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        max_length=64,
        no_timestamps_token_id=NO_TIMESTAMPS,
        is_multilingual=False,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        suppress_tokens=SPECIAL,
    )
    return model


def tiny_moe(
    base: WhisperForConditionalGeneration | None = None, *, trained: bool = True, seed: int = 1, **config
) -> MoeWhisperForConditionalGeneration:
    """Experts and router on a tiny Whisper; `trained` fills them with random weights that differ per expert."""
    model = MoeWhisperForConditionalGeneration.from_base(
        tiny_base() if base is None else base, **{"num_experts": EXPERTS, "lora_rank": 3, "lora_alpha": 6, **config}
    )
    if trained:
        randomise(model, seed)
    return model


@torch.no_grad()
def randomise(model: MoeWhisperForConditionalGeneration, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in model.routed_layers().values():
        layer.lora_a.copy_(0.3 * torch.randn(layer.lora_a.shape, generator=generator))
        layer.lora_b.copy_(0.3 * torch.randn(layer.lora_b.shape, generator=generator))
    router = model.model.encoder.router
    for parameter in router.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    router.output.weight.mul_(0.03)
    router.fit_statistics(model.embed(noise(16, WINDOW, seed=5)))


def noise(batch: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Random features `(batch, 80, frames)` in the range of log-mel ones, without padding."""
    return 0.5 * torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(seed))


def speech(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Voiced syllables over breath noise, 16 kHz: harmonic, amplitude-modulated, never digitally silent."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    pitch = rng.uniform(90, 260) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    voice = sum(np.sin(n * 2 * np.pi * np.cumsum(pitch) / 16000) * rng.uniform(0.2, 1) / n for n in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * time), 0, None)
    return (level * (voice * syllables + 0.05 * rng.standard_normal(time.shape))).astype(np.float32)


def extract(audio: list[np.ndarray], window: int = WINDOW, **options):
    """Whisper's own features of waveforms, padded to the window, with their mask."""
    options = {"return_attention_mask": True, "return_tensors": "pt", "sampling_rate": 16000, **options}
    return WhisperFeatureExtractor(feature_size=80, chunk_length=window // 100)(audio, **options)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    """Labels `(batch, length)`; rows after the first end in padding of -100."""
    labels = torch.randint(0, TEXT, (batch, length), generator=torch.Generator().manual_seed(seed))
    for row in range(1, batch):
        labels[row, length - row :] = -100
    return labels


def one_hot(expert: int, batch: int = 1) -> torch.Tensor:
    return torch.eye(EXPERTS)[expert].expand(batch, -1)


class FramesHeard:
    """Records the number of mel frames of every call to an encoder."""

    def __init__(self, model):
        self.frames: list[int] = []
        model.get_encoder().register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module, args, kwargs):
        self.frames.append((args[0] if args else kwargs["input_features"]).shape[-1])
