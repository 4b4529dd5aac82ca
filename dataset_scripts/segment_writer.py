"""Turn a long recording into the rows of its segments, or into the reason why there are none."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, ClassVar

import numpy as np

from dataset_scripts.segment_boundaries import Boundaries
from dataset_scripts.shards import Files, Writer
from dataset_scripts.utterances import Rejection, Utterance
from hf_components.speech import (
    DEV,
    SAMPLING_RATE,
    SILENCE,
    SPEECH,
    TOO_SHORT,
    AudioError,
    Segmentation,
    Stretch,
    cut_at,
    encode_flac,
    segment,
    sound_print,
    stream,
)


@dataclass(frozen=True)
class SegmentWriter(Writer):
    """Writes the segments of a recording as a shard. Those that start in its last part, a share of it, go to dev.

    A recording with `boundaries` is cut there, the others by `rules`.
    """

    rules: Segmentation
    last_part: float
    boundaries: Boundaries
    unit: ClassVar[str] = "s of audio"

    def divide(self, utterances):
        return [[recording] for recording in utterances]

    def size(self, utterance):
        return ceil(utterance.duration)

    def fill(self, folder, split, utterances, progress):
        (recording,) = utterances
        files = Files(folder, self)
        source = Counter()

        def blocks() -> Iterator[np.ndarray]:
            for block in stream(self.reader.path(recording.file)):
                yield block.waveform
                source.update(samples=block.source_samples, clipped=block.clipped, heard=len(block.waveform))
                progress(source["heard"] // SAMPLING_RATE - source["told"])
                source["told"] = source["heard"] // SAMPLING_RATE

        rejected = []
        statistics = []
        try:
            found = self.write_segments(files, split, recording, blocks())
            statistics.append({**found, "clipped": source["clipped"] / source["samples"]})
        except Rejection as problem:  # this may be found only at the end
            files.discard()
            rejected.append(problem.row(recording.id, recording.file, None))
        progress(self.size(recording) - source["told"])
        return {"files": files.close(), "rejected": rejected, "remarks": {}, "statistics": statistics}

    def write_segments(
        self, files: Files, split: str, recording: Utterance, blocks: Iterator[np.ndarray]
    ) -> dict[str, Any]:
        """Write the segments of a recording; return the number of samples kept and left out.

        Raises:
            Rejection: the recording cannot be used, or nothing of it is left.
        """
        detector = self.rules.new_detector()
        marked = self.boundaries.get(recording.file)
        stretches = segment(blocks, self.rules, detector) if marked is None else cut_at(blocks, marked)
        dev_from = (1 - self.last_part) * recording.duration if self.last_part else inf
        samples = Counter({SPEECH: 0, SILENCE: 0, TOO_SHORT: 0})
        durations = []
        first = last = None
        try:
            for stretch in stretches:
                samples[stretch.kind] += stretch.end - stretch.start
                if stretch.kind == SPEECH:
                    row = _row(recording, stretch)
                    files.add(DEV if row["start"] >= dev_from else split, row)
                    durations.append(row["duration"])
                    last = stretch.waveform
                    first = last if first is None else first
        except AudioError as error:
            raise Rejection(error.reason, error.detail) from error
        if not durations:
            raise _nothing_left(samples, self.rules, {} if marked else detector.findings())
        return {
            "source_file": recording.file,
            "speaker_id": recording.speaker_id,
            "samples": {"total": samples.total(), **samples},
            **({} if marked else detector.findings()),
            "durations": durations,
            "sound": sound_print(first, last),
        }


def _row(recording: Utterance, segment: Stretch) -> dict[str, Any]:
    start = segment.start / SAMPLING_RATE
    end = segment.end / SAMPLING_RATE
    return {
        "id": f"{recording.id}-{round(1000 * start):08d}-{round(1000 * end):08d}",
        "audio": {"bytes": encode_flac(segment.waveform), "path": None},
        "text": "",
        "raw_text": None,
        "speaker_id": recording.speaker_id,
        "group": recording.group,
        "duration": len(segment.waveform) / SAMPLING_RATE,
        "source_file": recording.file,
        "start": start,
        "end": end,
    }


def _nothing_left(samples: Counter, rules: Segmentation, levels: dict[str, int]) -> Rejection:
    seconds = samples.total() / SAMPLING_RATE
    if samples[TOO_SHORT]:
        return Rejection(
            "too short", f"of its {seconds:.3f} s no stretch of speech has min_segment ({rules.min_segment} s)"
        )
    found = (
        f"; its loudest tenth is above {levels['loud_db']} dB, silence_db is {rules.silence_db:g}" if levels else ""
    )
    return Rejection("silence only", f"the detector {rules.detector} finds no speech in its {seconds:.3f} s{found}")
