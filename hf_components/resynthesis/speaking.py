"""Units to speech with a vocoder, in batches."""

from collections.abc import Sequence

import numpy as np
import torch

from hf_components.errors import UserError
from hf_components.unit_hifigan import UnitHifiGanModel


@torch.inference_mode()
def speak(vocoder: UnitHifiGanModel, sequences: Sequence[Sequence[int]], voices: Sequence[int] | None = None
          ) -> list[np.ndarray]:
    """Speak sequences of units in one batch, each as if it were alone.

    Args:
        sequences: one unit per frame.
        voices: place of each one's speaker in `config.speakers`; None for a vocoder of one voice.
    Returns:
        float32 waveforms (frames * hop length,) at `config.sampling_rate`.
    """
    lengths = [len(units) for units in sequences]
    padded = torch.zeros(len(sequences), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, units in enumerate(sequences):
        padded[row, : len(units)], mask[row, : len(units)] = torch.tensor(units), 1
    device = vocoder.device
    speaker_ids = None if voices is None else torch.tensor(voices, device=device)
    spoken = vocoder(padded.to(device), attention_mask=mask.to(device), speaker_ids=speaker_ids).float().cpu().numpy()
    return [waveform[: length * vocoder.config.hop_length] for waveform, length in zip(spoken, lengths, strict=True)]


def voices_of(vocoder: UnitHifiGanModel, speakers: Sequence[str]) -> list[int] | None:
    """The `voices` of `speak` for speakers by name; None for a vocoder of one voice.

    Raises:
        UserError: the vocoder has voices, and none for one of the speakers.
    """
    known = vocoder.config.speakers
    if known and (strangers := sorted(set(speakers) - set(known))):
        raise UserError(f"{vocoder.name_or_path} has no voice for the speaker {strangers[0]}, only for {', '.join(known[:5])}"
                        f"{' and others' if len(known) > 5 else ''}; use a vocoder trained without --speaker_embedding")
    return [known.index(name) for name in speakers] if known else None
