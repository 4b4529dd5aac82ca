"""Divide a recording of any length into segments of speech and omitted parts between them, in constant memory."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

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
SHORTEST_LIMIT = 1.0  # s; smallest `max_segment`, long enough to search for a quiet place


@dataclass(kw_only=True)
class Segmentation:
    """Where recordings are cut. Raises UserError if a value is out of range."""

    detector: str = flag(
        "detector of speech: energy, or vad (Silero VAD; slower, but finds speech in noise)",
        default="energy",
        choices=tuple(DETECTORS),
    )
    silence_db: float = flag(
        "energy: level of silence, as RMS of 10 ms in dB relative to full scale (not to the recording's peak)",
        default=-40.0,
        above=-120,
        below=0,
        needs={"detector": "energy"},
    )
    min_silence: float = flag("seconds; a shorter silence is not a pause", default=0.5, above=0)
    min_segment: float = flag("seconds; shorter speech between two pauses is left out", default=1.0, above=0)
    max_segment: float = flag(
        "seconds; longer segments are cut at the quietest place in the last third of this length",
        default=30.0,
        above=0,
    )
    padding: float = flag("seconds of pause kept on each side, at most min_silence / 2", default=0.1, min=0)

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
        """The fields of this class, taken from arguments that have more fields."""
        return cls(**{option.name: getattr(options, option.name) for option in dataclasses.fields(cls)})

    def new_detector(self) -> Detector:
        """A detector for one recording. Raises UserError if its package is not installed."""
        return EnergyDetector(self.silence_db) if self.detector == "energy" else VoiceActivityDetector()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a recording, from sample `start` to sample `end` (exclusive) at 16 kHz.

    Attributes:
        kind: `SPEECH` for a segment; `SILENCE` or `TOO_SHORT` for parts that are left out.
        waveform: float32 (end - start,) of a segment, else None.
    """

    start: int
    end: int
    kind: str
    waveform: np.ndarray | None = None


def segment(blocks: Iterable[np.ndarray], rules: Segmentation, detector: Detector) -> Iterator[Stretch]:
    """Divide a recording into stretches in order, without gap or overlap.

    The result does not depend on the division into blocks. Memory holds one block and less than `max_segment` +
    `min_segment` + `min_silence` seconds.

    Args:
        blocks: float32 (samples,) each, consecutive, at 16 kHz.
        detector: new detector, from `rules`.
    """
    segmenter = _Segmenter(rules)
    for waveform, is_speech in detect(blocks, detector):
        yield from segmenter.add(waveform, is_speech, detector.frame)
    yield from segmenter.finish()


def cut_at(blocks: Iterable[np.ndarray], boundaries: Iterable[tuple[int, int]]) -> Iterator[Stretch]:
    """Divide a recording into given segments and the parts between them, in order, without gap or overlap.

    Args:
        blocks: float32 (samples,) each, consecutive, at 16 kHz.
        boundaries: first sample of each segment, and the one after its last; sorted, without overlap. What lies after
            the end of the recording is left out.
    """
    held = np.zeros(0, np.float32)
    held_from = given = 0
    waiting = deque(boundaries)
    for block in chain(blocks, [None]):
        ended = block is None
        held = held if ended else np.concatenate([held, block])
        heard = held_from + len(held)
        while waiting and (waiting[0][1] <= heard or (ended and waiting[0][0] < heard)):
            start, end = waiting.popleft()
            if given < start:
                yield Stretch(given, start, SILENCE)
            given = min(end, heard)
            yield Stretch(start, given, SPEECH, held[start - held_from : given - held_from])
        needed = min(heard, max(given, waiting[0][0] if waiting else heard))
        held = held[needed - held_from :]
        held_from = needed
    if given < heard:
        yield Stretch(given, heard, SILENCE)


class _Segmenter:
    """Positions are in samples from the start of the recording. A segment is open until a pause follows it."""

    def __init__(self, rules: Segmentation):
        self.silence, self.least, self.most, self.padding = (
            round(seconds * SAMPLING_RATE)
            for seconds in (rules.min_silence, rules.min_segment, rules.max_segment, rules.padding)
        )
        self.held = np.zeros(0, np.float32)
        self.held_from = 0
        self.heard = self.given = 0  # ends of the part that was added, and of the part that was yielded
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
        """The start of the open segment, with padding."""
        return max(self.given, self.open[0] - self.padding)

    def _close(self) -> Iterator[Stretch]:
        end = min(self.open[1] + self.padding, self.heard)
        yield from self._cut(end, self.most)
        yield from self._give(end)
        self.open = None

    def _cut(self, end: int, most: int) -> Iterator[Stretch]:
        """Yield pieces of the open segment while more than `most` samples remain before `end`."""
        while (length := end - self._start()) > most:
            cut = self._start() + self._quiet_place(min(self.most, length - self.least))
            yield from self._give(cut)
            self.open = (cut, self.open[1])

    def _quiet_place(self, longest: int) -> int:
        """Length of the first piece when the open segment is cut into pieces of at most `longest` samples."""
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
    """Start and end (exclusive) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()
