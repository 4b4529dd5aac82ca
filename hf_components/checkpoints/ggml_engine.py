"""Transcribe with a file of whisper.cpp, to check an export; `ggml_export` writes it."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from hf_components.runtime import UserError

VOCABULARIES = (51864, 51865, 51866)  # of OpenAI's Whispers; whisper.cpp knows the special tokens by their number
POSITIONS_PER_SECOND = 50
MOST_POSITIONS = 1500  # 30 s


def transcribe_ggml(
    file: str | Path,
    clips: Iterable[np.ndarray],
    *,
    vocab_size: int,
    max_new_tokens: int,
    language: str = "en",
    silence: float | None = None,
) -> list[str]:
    """Transcripts by whisper.cpp, greedy, on the CPU.

    Args:
        file: file of `export_ggml`.
        clips: waveforms at 16 kHz, float32 of shape (samples,).
        vocab_size: size of the model's vocabulary.
        max_new_tokens: longest transcript of a clip in tokens.
        language: language code of the text.
        silence: seconds after a clip that the encoder hears; None for a window of 30 s, as whisper.cpp has it.
    Raises:
        UserError: pywhispercpp is not installed, or whisper.cpp cannot run such a model.
    """
    if vocab_size not in VOCABULARIES:
        raise UserError(
            f"whisper.cpp runs Whispers with OpenAI's vocabulary only, of {', '.join(map(str, VOCABULARIES))} tokens; "
            f"this one has {vocab_size}. Leave --corpus out to export it without a check"
        )
    try:
        from pywhispercpp.model import Model
    except ImportError as error:
        raise UserError(
            'checking a ggml file needs pywhispercpp: pip install "underheard[ggml]"; or leave --corpus out'
        ) from error
    logging.getLogger("pywhispercpp").setLevel(logging.WARNING)  # a line per clip otherwise
    engine = Model(str(file), n_threads=torch.get_num_threads(), redirect_whispercpp_logs_to=None)
    texts = []
    for clip in clips:
        segments = engine.transcribe(
            clip,
            audio_ctx=0 if silence is None else audio_positions(len(clip) / 16_000, silence),
            language=language,
            max_tokens=max_new_tokens,
            no_timestamps=True,
            no_context=True,
            single_segment=silence is not None,
            temperature_inc=0.0,  # no second try at a higher temperature, which draws at random
            print_progress=False,
            print_realtime=False,
        )
        texts.append(" ".join(segment.text.strip() for segment in segments))
    return texts


def audio_positions(seconds: float, silence: float) -> int:
    """whisper.cpp's `--audio-ctx` for a clip with so much silence after it."""
    return min(MOST_POSITIONS, math.ceil(POSITIONS_PER_SECOND * (seconds + silence)))
