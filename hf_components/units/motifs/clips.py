"""Clips of stretches of segments, with what is said before and after them."""

from pathlib import Path

import datasets
import numpy as np

from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE, encode_flac, is_known, waveforms
from hf_components.units.table import SECONDS_PER_UNIT


class Clips:
    """Writes clips as FLAC into `folder/clips`; `size` is their bytes so far.

    Args:
        corpus: corpus with the audio of the segments, by `id`.
        context_seconds: seconds before and after a stretch, within its segment.
    """

    def __init__(self, folder: Path, corpus: datasets.Dataset, context_seconds: float):
        self.folder = folder
        self.corpus = corpus
        self.context_seconds = context_seconds
        self.index = {name: i for i, name in enumerate(corpus["id"])}
        self.size = 0
        self._decoded: tuple[str, np.ndarray] | None = None
        (folder / "clips").mkdir(exist_ok=True)

    def cut(self, segment: dict, start: float, end: float, name: str) -> dict:
        """Write a clip, and describe it as `page.write_page` shows it.

        Args:
            segment: row of the units; the segment that is cut most recently is decoded once.
            start, end: seconds within the segment.
            name: name of the file, without its suffix.
        Raises:
            UserError: the segment is not in the corpus.
        """
        waveform = self._waveform(segment["id"])
        begin = max(0.0, start - self.context_seconds)
        until = end + self.context_seconds
        content = encode_flac(waveform[round(begin * SAMPLING_RATE) : round(until * SAMPLING_RATE)])
        file = f"clips/{name}.flac"
        (self.folder / file).write_bytes(content)
        self.size += len(content)
        half = SECONDS_PER_UNIT / 2  # a unit that starts at `start` belongs to the stretch, despite rounding
        earliest, first, after, latest = np.searchsorted(
            segment["start_times"], [begin, start - half, end - half, until]
        )
        units = segment["deduplicated"]
        return {
            "file": file,
            "left": units[earliest:first],
            "units": units[first:after],
            "right": units[after:latest],
            "source_file": segment["source_file"],
            "segment": segment["id"],
            "voice": segment["speaker_id"] if is_known(segment["speaker_id"]) else "speaker unknown",
            "start": segment["start"] + start,
            "end": segment["start"] + end,
        }

    def _waveform(self, name: str) -> np.ndarray:
        if self._decoded is None or self._decoded[0] != name:
            if name not in self.index:
                raise UserError(f"segment {name} is not in the corpus; --corpus must be what the units are of")
            self._decoded = (name, waveforms([self.corpus[self.index[name]]])[0])
        return self._decoded[1]
