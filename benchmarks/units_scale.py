"""Time and peak memory of long recordings, from minutes to hours: memory must not grow with them.

python benchmarks/units_scale.py
python benchmarks/units_scale.py --minutes 10 600 --recording chapter_01.mp3 --steps segments units motifs

Segments a recording, learns units on the segments and writes all of them as units, learns motifs, and writes the
segments as units once more, as `encode_units` does for new recordings. A recording repeats a minute of noise bursts
with pauses of different lengths, or the given recording. Each step of each length is its own process, so its peak
memory is its own; the memory of the modules alone is printed beside it. It is memory of the process's own, without
mapped files such as the corpus, whose pages the system takes back when it needs them. It is looked at every 20 ms. The
disk is what the step leaves.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.memory import PeakMemory, cpu_seconds, in_own_process, own_memory
from hf_components.speech import SAMPLING_RATE, decode
from recipes import encode_units, learn_motifs, learn_units, segment_audio

STEPS = ("segments", "units", "motifs", "encoded")
HEAD = f"{'minutes':<9}{'step':<10}{'time (s)':>9}{'CPU (s)':>9}{'x real time':>13}{'disk, MiB':>11}"


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 600], help="lengths, one run for each")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=["segments"], help="each needs those before it")
    parser.add_argument("--recording", help="recording to repeat; default: noise with pauses")
    parser.add_argument("--detector", default="energy", help="energy or vad, which needs a --recording of speech")
    parser.add_argument(
        "--model", default="mfcc", help="features of the units: mfcc, or an encoder's folder or Hub id"
    )
    parser.add_argument("--folder", help="keep recordings and results here; default: a temporary folder")
    parser.add_argument("--measure", choices=STEPS, help=argparse.SUPPRESS)  # one step, in this process
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if args.measure:
            found = measure(args.measure, folder / f"{args.minutes[0]:g}", args)
            print(json.dumps(found))
            return found
        print(HEAD + "   peak memory, MiB (modules alone)   against the first length")
        found: dict = {}
        for minutes in args.minutes:
            place = folder / f"{minutes:g}"
            write_recording(place / "recordings" / "long.wav", minutes, args.recording)
            for step in args.steps:
                words = ["--measure", step, "--folder", folder, "--minutes", minutes]
                words += ["--detector", args.detector, "--model", args.model]
                run = found.setdefault(step, {})[minutes] = in_own_process(__file__, words)
                run["growth"] = run["peak_mib"] / found[step][args.minutes[0]]["peak_mib"]
                print_row(minutes, step, run)
    return found


def print_row(minutes: float, step: str, run: dict) -> None:
    print(
        f"{minutes:<9g}{step:<10}{run['seconds']:9.1f}{run['cpu_seconds']:9.1f}{60 * minutes / run['seconds']:13.0f}"
        f"{run['disk_mib']:11.1f}{run['peak_mib']:19.0f} ({run['modules_mib']:.0f})"
        f"{100 * (run['growth'] - 1):27.1f} %",
        flush=True,
    )


def measure(step: str, place: Path, args: argparse.Namespace) -> dict:
    output = place / step
    words = {
        "segments": ["--data_dir", place / "recordings", "--num_proc", 1, "--detector", args.detector],
        "units": ["--corpus", place / "segments", "--model", args.model],
        "motifs": ["--units_dir", place / "units"],
        "encoded": ["--corpus", place / "segments", "--model", place / "units" / "model"],
    }[step]
    recipe = {"segments": segment_audio, "units": learn_units, "motifs": learn_motifs, "encoded": encode_units}[step]
    modules = own_memory()
    start = time.perf_counter()
    cpu = cpu_seconds()
    with PeakMemory() as memory:
        metrics = recipe.main([str(word) for word in [*words, "--output_dir", output]])
    return {
        "segments": metrics["segments"]["segments"] if step == "segments" else None,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - cpu,
        "modules_mib": modules,
        "peak_mib": memory.peak,
        "disk_mib": sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 2**20,
    }


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
