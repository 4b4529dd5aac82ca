"""Call the `Model` in the folder `src` as the organisers of the SAP challenge do; `sapc2_packing` runs this program.

    python sapc2_trial.py track1|track2 a.wav b.wav ...

It writes `trial.json`: the texts, and the times of loading and of transcribing. The files are 16 kHz mono 16-bit WAV
with a header of 44 bytes. It imports numpy and nothing of ours, because the package must run by itself.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

HEADER = 44  # bytes
CHUNK = 1600  # samples: 100 ms


def main() -> None:
    track, *files = sys.argv[1:]
    sys.path.append("src")
    start = time.monotonic()
    from model import Model

    model = Model()
    loaded = time.monotonic()
    transcribe = stream if track == "track2" else whole
    texts = [transcribe(model, file) for file in files]
    report = {
        "texts": texts,
        "utterances": len(files),
        "unreadable": 0,
        "audio_seconds": round(sum(len(samples_of(file)) for file in files) / (10 * CHUNK), 1),
        "loading_seconds": round(loaded - start, 2),
        "transcribing_seconds": round(time.monotonic() - loaded, 2),
    }
    Path("trial.json").write_text(json.dumps(report), encoding="utf-8")


def whole(model, file: str) -> str:
    return model.predict(str(Path(file).resolve()))


def stream(model, file: str) -> str:
    """All chunks as fast as possible, as in the pass that is scored."""
    model.reset()
    model.set_partial_callback(nothing)
    samples = samples_of(file)
    for start in range(0, len(samples), CHUNK):
        model.accept_chunk(samples[start : start + CHUNK])
    return model.input_finished()


def nothing(text: str) -> None:
    """A callback that needs no partial text."""


def samples_of(file: str) -> np.ndarray:
    return np.frombuffer(Path(file).read_bytes()[HEADER:], np.int16).astype(np.float32) / 32768


if __name__ == "__main__":
    main()
