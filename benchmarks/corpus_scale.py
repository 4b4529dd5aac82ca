"""Time and peak memory of preparing a children's corpus of many rows, from the manifest to the card.

python benchmarks/corpus_scale.py
python benchmarks/corpus_scale.py --rows 100000 --num_proc 2 --folder /tmp/corpus_scale

The recordings are noise at 16 kHz, which FLAC does not compress: a hundred files, and a hard link to one of them per
row. Each run is its own process, so its peak memory is its own; the memory of the modules alone is printed beside it.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.synthetic import clips
from hf_components.speech import encode_flac
from recipes import prepare_corpus

RECORDINGS, ROWS_PER_CHILD = 100, 50
AGES = ("3-4", "5-7", "8-11", "12+")


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a recording")
    parser.add_argument("--num_proc", type=int, nargs="+", default=[1, 2], help="worker processes, one run for each")
    parser.add_argument("--folder", help="keep source and prepared corpus here; default: a temporary folder")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if args.measure:
            found = measure(folder, args.num_proc[0])
            print(json.dumps(found))
            return found
        write_corpus(folder / "source", args.rows, args.seconds)
        print(
            "rows      processes   time (s)   CPU (s)   rows/s   peak memory, MiB: main (modules alone)  "
            " largest worker"
        )
        found = {}
        for num_proc in args.num_proc:
            command = [sys.executable, __file__, "--measure", "--folder", str(folder), "--num_proc", str(num_proc)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[num_proc] = run = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{run['rows']:<10,}{num_proc:9}{run['seconds']:11.1f}{run['cpu_seconds']:10.1f}"
                f"{run['rows'] / run['seconds']:9.0f}{run['main_mib']:25.0f} ({run['modules_mib']:.0f})"
                f"{run['worker_mib']:22.0f}",
                flush=True,
            )
    return found


def measure(folder: Path, num_proc: int) -> dict:
    modules = peak(resource.RUSAGE_SELF)
    start = time.perf_counter()
    metrics = prepare_corpus.main(
        [
            "--builder",
            "jsonl_manifest",
            "--data_dir",
            str(folder / "source"),
            "--output_dir",
            str(folder / f"prepared_{num_proc}"),
            "--num_proc",
            str(num_proc),
        ]
    )
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "rows": sum(metrics["rows"].values()),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": sum(each.ru_utime + each.ru_stime for each in used),
        "modules_mib": modules,
        "main_mib": peak(resource.RUSAGE_SELF),
        "worker_mib": peak(resource.RUSAGE_CHILDREN),
    }


def peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**10


def write_corpus(root: Path, rows: int, seconds: float) -> None:
    originals = root / ".originals"
    originals.mkdir(parents=True, exist_ok=True)
    contents = [encode_flac(clip) for clip in clips([seconds] * RECORDINGS)]
    for number, content in enumerate(contents):
        (originals / f"{number}.flac").write_bytes(content)
    digests = [hashlib.md5(content, usedforsecurity=False).hexdigest() for content in contents]
    with (root / "manifest.jsonl").open("w") as manifest:
        for row in range(rows):
            child = row // ROWS_PER_CHILD
            path = root / f"audio_{row % 3}" / "audio" / f"U_{row:08d}.flac"
            if row < 3:
                path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.link(originals / f"{row % RECORDINGS}.flac", path)
            manifest.write(
                json.dumps(
                    {
                        "utterance_id": path.stem,
                        "child_id": f"C_{child:06d}",
                        "session_id": f"S_{child:06d}",
                        "audio_path": f"audio/{path.name}",
                        "audio_duration_sec": seconds,
                        "age_bucket": AGES[child % len(AGES)],
                        "md5_hash": digests[row % RECORDINGS],
                        "orthographic_text": f"these are the words of row {row}",
                    }
                )
                + "\n"
            )


if __name__ == "__main__":
    main()
