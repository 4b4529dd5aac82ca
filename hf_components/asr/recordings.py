"""Recordings to transcribe: files or rows of a corpus, read one at a time."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path

import datasets
import numpy as np

from hf_components.runtime import UserError, fingerprint, is_stream
from hf_components.speech import decode, read_duration, waveforms


def require_waveform(samples: np.ndarray) -> np.ndarray:
    """Samples that a user holds in memory, as an array.

    Raises:
        UserError: they are not floats `(samples,)`, or some are no numbers.
    """
    waveform = np.asarray(samples)
    if waveform.ndim != 1:
        raise UserError(f"a waveform must be mono, of the shape (samples,), got {waveform.shape}: mix it down")
    if waveform.dtype.kind != "f":
        raise UserError(
            f"the samples of a waveform must be floats in [-1, 1], got {waveform.dtype}: divide 16-bit ones by 32768"
        )
    if not np.isfinite(waveform).all():
        raise UserError("the waveform has samples that are no numbers (NaN or infinite)")
    return waveform


class Recordings(ABC):
    """Recordings in an order, each with a unique id."""

    ids: list[str]

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """float32 waveform (samples,) at 16 kHz. Raises AudioError if it cannot be read."""

    @abstractmethod
    def seconds(self, index: int) -> float:
        """Length from a header or manifest, used to make batches. Raises AudioError if it cannot be read."""

    @abstractmethod
    def fingerprint(self, index: int) -> str | None:
        """A digest of the recording; None if its source has a fingerprint of its own."""

    @abstractmethod
    def without(self, ids: Collection[str]) -> "Recordings":
        """All recordings except these."""


class Files(Recordings):
    """Audio files."""

    def __init__(self, files: Mapping[str, str | Path]):
        self.files = files
        self.ids = list(files)

    def read(self, index):
        return decode(self.files[self.ids[index]])

    def seconds(self, index):
        return read_duration(self.files[self.ids[index]])

    def fingerprint(self, index):
        file = Path(self.files[self.ids[index]])
        return None if is_stream(file) else fingerprint(file)  # `read` says what is wrong with it

    def without(self, ids):
        return Files({name: file for name, file in self.files.items() if name not in ids})


class Rows(Recordings):
    """Rows of a prepared corpus, audio not decoded; the corpus has its own fingerprint."""

    def __init__(self, corpus: datasets.Dataset):
        self.corpus = corpus
        self.ids = corpus["id"][:]
        self.durations = corpus["duration"][:]

    def read(self, index):
        return waveforms([self.corpus[index]])[0]

    def seconds(self, index):
        return self.durations[index]

    def fingerprint(self, index):
        return None

    def without(self, ids):
        return Rows(self.corpus.select([i for i, name in enumerate(self.ids) if name not in ids]))
