"""Distinguish speech from silence frame by frame in a stream of audio, by energy or a voice activity detector."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from scipy.signal import lfilter

from hf_components.runtime import UserError, packaged_weights
from hf_components.speech.audio import SAMPLING_RATE

DETECTORS = ("energy", "vad")
QUIETEST = -120  # dB; level of digital silence


class Detector(ABC):
    """Decides for each frame of one recording whether it is speech. Every recording needs a new detector.

    Attributes:
        frame: length of a frame in samples at 16 kHz.
    """

    frame: int

    @abstractmethod
    def is_speech(self, waveform: np.ndarray) -> np.ndarray:
        """bool (frames,) for the next complete frames of the recording, float32 (samples,)."""

    def findings(self) -> dict[str, float]:
        """Statistics of the recording so far."""
        return {}


class EnergyDetector(Detector):
    """A frame is speech if it is louder than `silence_db`.

    The level is the RMS of 10 ms in dB relative to full scale, the same as in pydub (`silence_thresh`), FFmpeg
    (`silencedetect`) and SoX (`silence`); a sine at full scale has -3 dB. A high-pass filter at 20 Hz first removes a
    constant offset.
    """

    frame = SAMPLING_RATE // 100

    def __init__(self, silence_db: float):
        self.silence_db = silence_db
        self.pole = 1 - 2 * np.pi * 20 / SAMPLING_RATE  # y[n] = x[n] - x[n-1] + pole y[n-1]
        self.state: np.ndarray | None = None
        self.levels = np.zeros(1 - QUIETEST, np.int64)  # number of frames per level, rounded to 1 dB

    def is_speech(self, waveform):
        if self.state is None:
            self.state = -waveform[:1]  # as if the first sample had lasted forever before
        filtered, self.state = lfilter(np.float32([1, -1]), np.float32([1, -self.pole]), waveform, zi=self.state)
        power = np.square(filtered.reshape(-1, self.frame)).mean(axis=1)
        level = 10 * np.log10(np.maximum(power, 10 ** (QUIETEST / 10)))
        self.levels += np.bincount(
            np.clip(level.round().astype(int) - QUIETEST, 0, len(self.levels) - 1), minlength=len(self.levels)
        )
        return level > self.silence_db

    def findings(self):
        """Levels in dB: the quietest tenth of the frames is below `quiet_db`, the loudest tenth above `loud_db`."""
        share = np.cumsum(self.levels) / self.levels.sum()
        quiet, loud = (np.searchsorted(share, (0.1, 0.9)) + QUIETEST).tolist()
        return {"quiet_db": quiet, "loud_db": loud}


class VoiceActivityDetector(Detector):
    """Silero VAD (https://github.com/snakers4/silero-vad) with the model in its package. Speech starts where the
    probability reaches 0.5 and ends where it falls below 0.35, the package's own thresholds."""

    frame = 512  # the frame length of the model
    BEGIN, END = 0.5, 0.35

    def __init__(self):
        if importlib.util.find_spec("silero_vad") is None:
            advice = 'pip install "underheard[vad]", or use --detector energy'
            raise UserError(f"the voice activity detector is not installed: {advice}")
        packaged_weights("silero_vad", "data/silero_vad.jit")
        threads = torch.get_num_threads()
        from silero_vad import load_silero_vad

        torch.set_num_threads(threads)  # the import sets it to 1 for the whole process
        self.model = load_silero_vad()
        self.speaking = False

    @torch.inference_mode()
    def is_speech(self, waveform):
        frames = torch.from_numpy(waveform.reshape(-1, self.frame))
        probability = np.array([self.model(frame, SAMPLING_RATE).item() for frame in frames])
        # A frame between the two thresholds is the same as the last clear frame before it.
        clear = np.concatenate([[True], (probability >= self.BEGIN) | (probability < self.END)])
        speech = np.concatenate([[self.speaking], probability >= self.BEGIN])
        speech = speech[np.maximum.accumulate(np.where(clear, np.arange(len(clear)), 0))][1:]
        self.speaking = bool(speech[-1]) if len(speech) else self.speaking
        return speech


def detect(blocks: Iterable[np.ndarray], detector: Detector) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same recording, with the decision for each frame.

    Args:
        blocks: float32 (samples,) each, consecutive, at 16 kHz.
    Yields:
        (waveform (samples,), is speech (frames,)): complete frames; only the last of the recording may be shorter.
    """
    rest = np.zeros(0, np.float32)
    for block in blocks:
        waveform = np.concatenate([rest, block])
        whole = len(waveform) // detector.frame * detector.frame
        rest = waveform[whole:]
        if whole:
            yield waveform[:whole], detector.is_speech(waveform[:whole])
    if len(rest):
        yield rest, detector.is_speech(np.pad(rest, (0, detector.frame - len(rest)), mode="edge"))
