"""Material for measuring speed, which does not depend on weights or words: random Whispers, noise, random tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

SIZES = {
    "tiny": {"d_model": 384, "layers": 4, "heads": 6},
    "base": {"d_model": 512, "layers": 6, "heads": 8},
    "small": {"d_model": 768, "layers": 12, "heads": 12},
}
FIRST_SPECIAL = 50256  # first special token of Whisper's English-only vocabulary; text is below
TOKENS_PER_SECOND = 4  # in read English speech


def whisper(size: str, kind: type[WhisperForConditionalGeneration] = WhisperForConditionalGeneration):
    """A Whisper of OpenAI's size with random weights, which are the same at each call for one class."""
    torch.manual_seed(0)
    d_model, layers, heads = SIZES[size].values()
    model = kind(
        WhisperConfig(
            vocab_size=51864,
            d_model=d_model,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * d_model,
            decoder_ffn_dim=4 * d_model,
            pad_token_id=FIRST_SPECIAL,
            bos_token_id=FIRST_SPECIAL,
            eos_token_id=FIRST_SPECIAL,
            decoder_start_token_id=FIRST_SPECIAL + 1,
        )
    )
    model.generation_config = GenerationConfig(
        decoder_start_token_id=FIRST_SPECIAL + 1,
        pad_token_id=FIRST_SPECIAL,
        bos_token_id=FIRST_SPECIAL,
        eos_token_id=FIRST_SPECIAL,
        no_timestamps_token_id=50362,
        is_multilingual=False,
        return_timestamps=False,
        begin_suppress_tokens=[220, FIRST_SPECIAL],
        suppress_tokens=list(range(FIRST_SPECIAL + 1, 50362)),
    )
    return model.eval()


def clips(seconds: Sequence[float]) -> list[np.ndarray]:
    """Noise at 16 kHz."""
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, int(16_000 * length)).astype(np.float32) for length in seconds]


def transcript(seconds: float) -> list[int]:
    """Random tokens, as many as speech of that length has."""
    return np.random.default_rng(0).integers(0, FIRST_SPECIAL, round(TOKENS_PER_SECOND * seconds)).tolist()
