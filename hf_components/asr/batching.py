"""Recordings in batches: how long each is, and their sound, read ahead of the model."""

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


class AudioBatches(torch.utils.data.Dataset):
    """Waveforms of each batch; a recording that cannot be decoded is represented by its `AudioError`."""

    def __init__(self, recordings: Recordings, batches: list[list[int]]):
        self.recordings = recordings
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[np.ndarray | AudioError]:
        clips = []
        for i in self.batches[index]:
            try:
                clips.append(self.recordings.read(i))
            except AudioError as error:
                clips.append(error)
        return clips
