"""Time and peak memory of segmenting one recording, from minutes to hours: memory must not grow with the recording.

python benchmarks/segmentation_scale.py
python benchmarks/segmentation_scale.py --minutes 10 600 --recording chapter_01.mp3 --folder /tmp/segmentation_scale

A recording repeats a minute of noise bursts with pauses of different lengths, or the given recording. Each run is its
own process, so its peak memory is its own; the memory of the modules alone is printed beside it.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_components.speech import SAMPLING_RATE, decode
from recipes import segment_audio


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 600], help="lengths, one run for each")
    parser.add_argument("--recording", help="recording to repeat; default: noise with pauses")
    parser.add_argument("--detector", default="energy", help="energy or vad, which needs a --recording of speech")
    parser.add_argument("--folder", help="keep recordings and segments here; default: a temporary folder")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if args.measure:
            found = measure(folder, args.minutes[0], args.detector)
            print(json.dumps(found))
            return found
        print(
            "minutes   segments   time (s)   CPU (s)   x real time   peak memory, MiB (modules alone)   "
            "against the first"
        )
        found = {}
        for minutes in args.minutes:
            write_recording(folder / f"{minutes:g}" / "long.wav", minutes, args.recording)
            command = [
                sys.executable,
                __file__,
                "--measure",
                "--folder",
                str(folder),
                "--minutes",
                str(minutes),
                "--detector",
                args.detector,
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            found[minutes] = run = json.loads(done.stdout.splitlines()[-1])
            run["growth"] = run["peak_mib"] / found[args.minutes[0]]["peak_mib"]
            print(
                f"{minutes:<10g}{run['segments']:8}{run['seconds']:11.1f}{run['cpu_seconds']:10.1f}"
                f"{60 * minutes / run['seconds']:14.0f}{run['peak_mib']:26.0f} ({run['modules_mib']:.0f})"
                f"{100 * (run['growth'] - 1):18.1f} %",
                flush=True,
            )
    return found


def measure(folder: Path, minutes: float, detector: str) -> dict:
    modules = peak()
    start = time.perf_counter()
    metrics = segment_audio.main(
        [
            "--data_dir",
            str(folder / f"{minutes:g}"),
            "--output_dir",
            str(folder / f"{minutes:g}_segments"),
            "--num_proc",
            "1",
            "--detector",
            detector,
        ]
    )
    return {
        "segments": metrics["segments"]["segments"],
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time(),
        "modules_mib": modules,
        "peak_mib": peak(),
    }


def peak() -> float:
    """Peak memory in MiB, on Linux; `getrusage` would report that of the parent where it is larger."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10


def write_recording(path: Path, minutes: float, recording: str | None) -> None:
    repeated = decode(recording) if recording else noise_with_pauses()
    path.parent.mkdir(parents=True, exist_ok=True)
    left = round(60 * minutes * SAMPLING_RATE)
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, subtype="PCM_16") as file:
        while left > 0:
            file.write(repeated[:left])
            left -= len(repeated)


def noise_with_pauses() -> np.ndarray:
    """A minute of noise in bursts of 0.5 to 12 s, with pauses of 0.2 to 2 s."""
    random = np.random.default_rng(0)
    parts = []
    while sum(map(len, parts)) < 60 * SAMPLING_RATE:
        parts.append(random.normal(0, 0.1, round(random.uniform(0.5, 12) * SAMPLING_RATE)))
        parts.append(np.zeros(round(random.uniform(0.2, 2) * SAMPLING_RATE)))
    return np.concatenate(parts)[: 60 * SAMPLING_RATE].astype(np.float32)


if __name__ == "__main__":
    main()
