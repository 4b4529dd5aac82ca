"""Statistics of a segmented corpus: what was kept and left out, lengths of segments, and odd recordings."""

import dataclasses
import logging
from math import ceil
from typing import Any

import numpy as np

from hf_components.speech import SAMPLING_RATE, SILENCE, SPEECH, TOO_SHORT, Segmentation

logger = logging.getLogger(__name__)

CLIPPED = 1e-4  # share of samples at full scale that counts as clipping
HEADROOM = 10  # dB; if the loudest tenth of speech is less above the threshold, some speech is below it
STATISTICS = {"mean": np.mean, "median": np.median, "shortest": np.min, "longest": np.max}
BINS = 20  # in the histogram of durations


def summarise_segments(statistics: list[dict], rules: Segmentation) -> dict[str, Any]:
    """`segments.json`: options, seconds kept and left out, durations with histogram, and each recording."""
    seconds = {
        kind: sum(recording["samples"][kind] for recording in statistics) / SAMPLING_RATE
        for kind in ("total", SPEECH, SILENCE, TOO_SHORT)
    }
    durations = np.concatenate([recording["durations"] for recording in statistics])
    counts, edges = np.histogram(durations, BINS, (0, ceil(durations.max())))
    return {
        "options": dataclasses.asdict(rules),
        "recordings": len(statistics),
        "segments": len(durations),
        "seconds": seconds,
        "duration": {name: float(of(durations)) for name, of in STATISTICS.items()},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "files": [
            {
                **{key: value for key, value in recording.items() if key not in ("durations", "sound")},
                "segments": len(recording["durations"]),
            }
            for recording in statistics
        ],
    }


def warn_of_recordings(statistics: list[dict], rules: Segmentation) -> None:
    """Warn of clipped recordings, and of those that make the threshold look wrong."""
    clipped = [recording for recording in statistics if recording["clipped"] > CLIPPED]
    if clipped:
        worst = max(clipped, key=lambda recording: recording["clipped"])
        logger.warning(
            "%d recordings are clipped, most of all %s with %.2f %% of its samples at full scale (segments.json "
            "has each one's share); record at a lower level",
            len(clipped),
            worst["source_file"],
            100 * worst["clipped"],
        )
    if rules.detector != "energy":
        return
    statistics = [recording for recording in statistics if "quiet_db" in recording]  # the others were cut by hand
    noisy = [recording for recording in statistics if recording["quiet_db"] >= rules.silence_db]
    if noisy:
        logger.warning(
            "%d recordings are hardly ever silent: the quietest tenth of %s is at %d dB, silence_db is %g; raise "
            "--silence_db above it, or take --detector vad",
            len(noisy),
            noisy[0]["source_file"],
            noisy[0]["quiet_db"],
            rules.silence_db,
        )
    quiet = [recording for recording in statistics if recording["loud_db"] < rules.silence_db + HEADROOM]
    if quiet:
        logger.warning(
            "%d recordings are so quiet that speech may be taken for silence: the loudest tenth of %s begins at %d "
            "dB, silence_db is %g; lower --silence_db",
            len(quiet),
            quiet[0]["source_file"],
            quiet[0]["loud_db"],
            rules.silence_db,
        )
