"""Units to speech with a vocoder, in batches."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_components.metrics.speech_resynthesis.pitch import SHORTEST, unit_pitch
from hf_components.runtime import UserError
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units.table import SECONDS_PER_UNIT


@torch.inference_mode()
def speak(
    vocoder: UnitHifiGanModel,
    sequences: Sequence[Sequence[int]],
    voices: Sequence[int] | None = None,
    pitches: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Speak sequences of units in one batch, each as if it were alone.

    Args:
        sequences: units of each sequence, one per frame.
        voices: index in `config.speakers` of each sequence; None for a vocoder of one voice.
        pitches: F0 of each sequence, one per frame in Hz, 0 where unvoiced; None for a vocoder without `use_f0`.
    Returns:
        float32 waveforms (frames * hop length,) at `config.sampling_rate`.
    """
    lengths = [len(units) for units in sequences]
    padded = torch.zeros(len(sequences), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, units in enumerate(sequences):
        padded[row, : len(units)] = torch.tensor(units)
        mask[row, : len(units)] = 1
    device = vocoder.device
    f0 = None
    if pitches is not None:
        f0 = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(pitch).float() for pitch in pitches], batch_first=True)
        f0 = f0.to(device)
    speaker_ids = None if voices is None else torch.tensor(voices, device=device)
    spoken = vocoder(padded.to(device), attention_mask=mask.to(device), speaker_ids=speaker_ids, f0=f0)
    spoken = spoken.float().cpu().numpy()
    return [waveform[: length * vocoder.config.hop_length] for waveform, length in zip(spoken, lengths, strict=True)]


def voices_of(vocoder: UnitHifiGanModel, speakers: Sequence[str]) -> list[int] | None:
    """The `voices` of `speak` for speakers by name; None for a vocoder of one voice.

    Raises:
        UserError: the vocoder has several voices, but none for one of the speakers.
    """
    known = vocoder.config.speakers
    if known and (strangers := sorted(set(speakers) - set(known))):
        raise UserError(
            f"{vocoder.name_or_path} has no voice for the speaker {strangers[0]}, only for {', '.join(known[:5])}"
            f"{' and others' if len(known) > 5 else ''}; use a vocoder trained without --speaker_embedding"
        )
    return [known.index(name) for name in speakers] if known else None


def pitches_of(
    vocoder: UnitHifiGanModel, recordings: Sequence[np.ndarray], sequences: Sequence[Sequence[int]]
) -> list[np.ndarray] | None:
    """The `pitches` of `speak`, measured in the recordings of the units; None for a vocoder without `use_f0`.

    Raises:
        UserError: a recording is too short to measure its pitch.
    """
    if not vocoder.config.use_f0:
        return None
    frames = [len(units) for units in sequences]
    if (shortest := min(frames) * SECONDS_PER_UNIT) < SHORTEST:
        raise UserError(
            f"a vocoder with pitch needs at least {1000 * SHORTEST:g} ms of speech, got units of "
            f"{1000 * shortest:g} ms"
        )
    return [
        unit_pitch(waveform[: count * vocoder.config.hop_length], count)
        for waveform, count in zip(recordings, frames, strict=True)
    ]
