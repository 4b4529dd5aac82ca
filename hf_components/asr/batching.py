"""Recordings in batches: how long each is, and their sound, read ahead of the model."""

from collections.abc import Iterable

import numpy as np
import torch

from hf_components.asr.recordings import Recordings
from hf_components.runtime import Progress
from hf_components.speech import AudioError


def durations_of(recordings: Recordings, disable: bool) -> tuple[dict[int, float], dict[int, str]]:
    """Seconds by index for recordings with a readable header, and the problem by index for the others."""
    seconds = {}
    unreadable = {}
    for i in Progress(range(len(recordings.ids)), desc="measuring", unit="recording", disable=disable):
        try:
            seconds[i] = recordings.seconds(i)
        except AudioError as error:
            unreadable[i] = error.problem
    return seconds, unreadable


def read_ahead(
    recordings: Recordings, batches: list[list[int]], num_workers: int
) -> Iterable[list[np.ndarray | AudioError]]:
    """Waveforms of each batch, read by other processes; of what cannot be decoded, its `AudioError`."""
    return torch.utils.data.DataLoader(
        _Read(recordings),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=list,  # keeps arrays as they are
        generator=torch.Generator(),  # else the loader would change the random state of a training in progress
    )


class _Read(torch.utils.data.Dataset):
    def __init__(self, recordings: Recordings):
        self.recordings = recordings

    def __getitem__(self, index: int) -> np.ndarray | AudioError:
        try:
            return self.recordings.read(index)
        except AudioError as error:
            return error
