"""Divide a recording of any length into segments of speech and what is left out between them, in constant memory."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hf_components.runtime import UserError, flag
from hf_components.speech.audio import SAMPLING_RATE
from hf_components.speech.cutting import cut_at_quiet
from hf_components.speech.speech_detection import (
    DETECTORS,
    QUIETEST,
    Detector,
    EnergyDetector,
    VoiceActivityDetector,
    detect,
)

SPEECH, SILENCE, TOO_SHORT = "speech", "silence", "too short"
SHORTEST_LIMIT = 1.0  # s; `max_segment` must leave room to look for a quiet place


@dataclass(kw_only=True)
class Segmentation:
    """Where recordings are cut.

    Raises:
        UserError: a value is out of range.
    """

    detector: str = flag(
        f"what tells speech from silence: {' or '.join(DETECTORS)} (Silero VAD; it takes "
        "longer, and hears speech in "
        "noise)",
        default="energy",
        choices=tuple(DETECTORS),
    )
    silence_db: float = flag(
        "energy: silence is below this level, the RMS of 10 ms in dB relative to full scale "
        "(0 dB), not to the "
        "recording's own peak",
        default=-40.0,
        above=-120,
        below=0,
    )
    min_silence: float = flag("seconds; a shorter silence is no pause", default=0.5, above=0)
    min_segment: float = flag("seconds; what is shorter between two pauses is left out", default=1.0, above=0)
    max_segment: float = flag(
        "seconds; a longer segment is cut at its quietest place, looked for in the last third of this length",
        default=30.0,
        above=0,
    )
    padding: float = flag(
        "seconds of the pause that are kept on either side of a segment; at most half of min_silence",
        default=0.1,
        min=0,
    )

    def __post_init__(self):
        if self.detector not in DETECTORS:
            raise UserError(f"detector must be one of {', '.join(DETECTORS)}, got {self.detector!r}")
        if not QUIETEST < self.silence_db < 0:
            raise UserError(
                f"silence_db is relative to full scale and must lie in ({QUIETEST}, 0), got {self.silence_db}"
            )
        if not self.min_silence > 0:
            raise UserError(f"min_silence must be more than 0 s, got {self.min_silence}")
        if not 0 <= self.padding <= self.min_silence / 2:
            raise UserError(
                f"padding must lie in [0, {self.min_silence / 2}], half of min_silence, so that segments do not "
                f"overlap, got {self.padding}"
            )
        if not self.max_segment >= SHORTEST_LIMIT:
            raise UserError(f"max_segment must be at least {SHORTEST_LIMIT} s, got {self.max_segment}")
        if not 0 < self.min_segment <= self.max_segment / 2:
            raise UserError(
                f"min_segment must lie in (0, {self.max_segment / 2}], half of max_segment, so that both parts of "
                f"a cut are long enough, got {self.min_segment}"
            )

    @classmethod
    def of(cls, options: object) -> "Segmentation":
        """These fields of something that has more."""
        return cls(**{option.name: getattr(options, option.name) for option in dataclasses.fields(cls)})

    def new_detector(self) -> Detector:
        """For one recording. Raises UserError: its package is not installed."""
        return EnergyDetector(self.silence_db) if self.detector == "energy" else VoiceActivityDetector()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a recording, from sample `start` to sample `end` (exclusive) at 16 kHz.

    Attributes:
        kind: `SPEECH` is a segment, `SILENCE` and `TOO_SHORT` are left out.
        waveform: float32 (end - start,) of a segment, else None.
    """

    start: int
    end: int
    kind: str
    waveform: np.ndarray | None = None


def segment(blocks: Iterable[np.ndarray], rules: Segmentation, detector: Detector) -> Iterator[Stretch]:
    """All of a recording in order, without gap or overlap: each stretch begins where the one before ends.

    The result does not depend on how the recording is divided into blocks. Held in memory are a block and less than
    `max_segment` + `min_segment` + `min_silence` seconds.

    Args:
        blocks: float32 (samples,) each, one after the other at 16 kHz.
        detector: a new one, from `rules`.
    """
    segmenter = _Segmenter(rules)
    for waveform, is_speech in detect(blocks, detector):
        yield from segmenter.add(waveform, is_speech, detector.frame)
    yield from segmenter.finish()


class _Segmenter:
    """Positions are samples since the recording's begin. Open is the speech after which no pause has been found
    yet."""

    def __init__(self, rules: Segmentation):
        self.silence, self.least, self.most, self.padding = (
            round(seconds * SAMPLING_RATE)
            for seconds in (rules.min_silence, rules.min_segment, rules.max_segment, rules.padding)
        )
        self.held = np.zeros(0, np.float32)
        self.held_from = 0
        self.heard = self.given = 0  # how far the recording was added, and given away as stretches
        self.open: tuple[int, int] | None = None

    def add(self, waveform: np.ndarray, is_speech: np.ndarray, frame: int) -> Iterator[Stretch]:
        begin = self.heard
        self.held = np.concatenate([self.held, waveform])
        self.heard = begin + len(waveform)
        for first, last in _runs(is_speech):
            start = begin + first * frame
            end = min(begin + last * frame, self.heard)
            if self.open and start - self.open[1] >= self.silence:
                yield from self._close()
            self.open = (self.open[0] if self.open else start, end)
            yield from self._cut(end, self.most + self.least)
        if self.open and self.heard - self.open[1] >= self.silence:
            yield from self._close()
        needed = self._start() if self.open else max(self.given, self.heard - self.padding)
        self.held = self.held[needed - self.held_from :]
        self.held_from = needed

    def finish(self) -> Iterator[Stretch]:
        if self.open:
            yield from self._close()
        if self.given < self.heard:
            yield Stretch(self.given, self.heard, SILENCE)

    def _start(self) -> int:
        """Where the open segment begins, with its padding."""
        return max(self.given, self.open[0] - self.padding)

    def _close(self) -> Iterator[Stretch]:
        end = min(self.open[1] + self.padding, self.heard)
        yield from self._cut(end, self.most)
        yield from self._give(end)
        self.open = None

    def _cut(self, end: int, most: int) -> Iterator[Stretch]:
        """Give pieces of the open segment while there are more than `most` samples before `end`."""
        while (length := end - self._start()) > most:
            cut = self._start() + self._quiet_place(min(self.most, length - self.least))
            yield from self._give(cut)
            self.open = (cut, self.open[1])

    def _quiet_place(self, longest: int) -> int:
        """Length of the first piece if the open segment is cut into pieces of at most `longest` samples."""
        first = self._start() - self.held_from
        searched = self.held[first : first + longest + 1]
        return len(cut_at_quiet(searched - searched.mean(), longest / SAMPLING_RATE, SAMPLING_RATE)[0])

    def _give(self, end: int) -> Iterator[Stretch]:
        start = self._start()
        if self.given < start:
            yield Stretch(self.given, start, SILENCE)
        if end - start < self.least:
            yield Stretch(start, end, TOO_SHORT)
        else:
            yield Stretch(start, end, SPEECH, self.held[start - self.held_from : end - self.held_from])
        self.given = end


def _runs(flags: np.ndarray) -> list[list[int]]:
    """Begin and end (exclusive) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()
