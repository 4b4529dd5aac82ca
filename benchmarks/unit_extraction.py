"""Units of a corpus in batches beside a loop over clips, and memory of learning units on little and on much speech.

OMP_NUM_THREADS=1 python benchmarks/unit_extraction.py
OMP_NUM_THREADS=1 python benchmarks/unit_extraction.py --encoder wav2vec2 --minutes
OMP_NUM_THREADS=1 python benchmarks/unit_extraction.py --minutes 10 60

Throughput is measured on waveforms in memory: batches of similar duration as in `learn_units`, and `encode` clip by
clip. The encoder has random weights: `wav2vec2` is the first three layers of a model of the shape of XLSR-53. MFCC are
computed clip by clip in both.

Memory is measured on the whole recipe (MFCC, two passes), each length in its own process, on clips that are repeated
to that length. The peak is that of anonymous memory, which the process itself holds. Pages of the memory-mapped corpus
are left out: the kernel counts them too, but takes them back when needed. The corpus has been opened once before, so
that `datasets` has already copied it to its cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from datasets import Audio, Dataset
from transformers import Wav2Vec2Config

from benchmarks.side_by_side import Work, compare
from hf_components.acoustic_units import MFCC, AcousticUnitsConfig, AcousticUnitsModel
from hf_components.speech import encode_flac, seconds_batches
from hf_components.units.learning import pad_waveforms
from recipes import learn_units

SECONDS = (2.0, 20.0)
LARGE = Wav2Vec2Config(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    conv_bias=True,
    do_stable_layer_norm=True,
    feat_extract_norm="layer",
)
OPEN = "import sys; from hf_components.speech.corpus import load_corpus; load_corpus(sys.argv[1])"
CARD = """---
configs:
- config_name: default
  description: {minutes} minutes
  data_files: [{{split: train, path: data/train.parquet}}]
---
"""


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=(MFCC, "wav2vec2"), default=MFCC)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batch_seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, nargs="*", default=[10, 600], help="lengths of the corpora, or none")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(Path(args.measure))))
        return {}
    results = {"throughput": throughput(args)}
    if args.minutes:
        results["memory"] = memory(args.minutes)
    return results


def throughput(args: argparse.Namespace) -> dict:
    config = (
        AcousticUnitsConfig()
        if args.encoder == MFCC
        else AcousticUnitsConfig(encoder="random", layer=3, encoder_config=LARGE.to_dict(), do_normalize=True)
    )
    model = AcousticUnitsModel(config).eval()
    clips = voices(np.linspace(*SECONDS, args.clips))
    seconds = [len(clip) / 16_000 for clip in clips]
    model.set_centroids(model.features(*pad_waveforms(clips[-1:]))[0][0, : config.num_units])
    batches = seconds_batches(seconds, args.batch_seconds)
    works = {
        "in batches": Work(
            lambda: [model(*pad_waveforms([clips[i] for i in batch])) for batch in batches], len(clips)
        ),
        "one by one": Work(lambda: [model.encode(clip) for clip in clips], len(clips)),
    }
    print(
        f"{args.encoder}, {len(clips)} clips of {SECONDS[0]:.0f} to {SECONDS[1]:.0f} s, batches of "
        f"{args.batch_seconds} s"
    )
    found = compare(
        works, repeats=args.repeats, unit="clip", products=[(3000, config.feature_size, 4 * config.feature_size)]
    )
    for name, row in found.items():
        print(f"{name}: {np.mean(seconds) / row['seconds']:.0f} seconds of speech per second")
    return found


def memory(minutes: list[float]) -> dict[float, dict]:
    print(f"\n{'minutes':>8}{'peak of anonymous memory (MiB)':>34}{'ratio':>8}{'seconds':>10}")
    results: dict[float, dict] = {}
    for length in minutes:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", length)
            environment = {**os.environ, "HF_DATASETS_CACHE": f"{folder}/cache"}
            subprocess.run(
                [sys.executable, "-c", OPEN, f"{folder}/corpus"],
                check=True,
                env=environment,
                cwd=Path(__file__).parents[1],
            )
            done = subprocess.run(
                [sys.executable, __file__, "--measure", folder],
                check=True,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        results[length] = json.loads(done.stdout.splitlines()[-1])
        ratio = results[length]["peak_mib"] / results[minutes[0]]["peak_mib"]
        print(
            f"{length:8.0f}{results[length]['peak_mib']:34.0f}{ratio:8.2f}{results[length]['seconds']:10.0f}",
            flush=True,
        )
    return results


def measure(folder: Path) -> dict:
    peak = [0]
    over = threading.Event()
    start = time.perf_counter()

    def watch() -> None:
        while not over.wait(0.02):
            fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
            peak[0] = max(peak[0], int(fields["RssAnon"].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    learn_units.main(
        ["--corpus", str(folder / "corpus"), "--output_dir", str(folder / "units"), "--encoder", MFCC, "--passes", "2"]
    )
    over.set()
    watcher.join()
    return {"peak_mib": peak[0] / 2**10, "seconds": time.perf_counter() - start}


def voices(durations: np.ndarray) -> list[np.ndarray]:
    """Tones of changing pitch and colour, over noise."""
    random = np.random.default_rng(0)
    clips = []
    for seconds in durations:
        samples = int(seconds * 16_000)
        wander = np.interp(
            np.arange(samples),
            np.linspace(0, samples, int(4 * seconds) + 2),
            random.uniform(80, 300, int(4 * seconds) + 2),
        )
        phase = 2 * np.pi * np.cumsum(wander) / 16_000
        clips.append(
            (0.1 * sum(np.sin(n * phase) / n for n in range(1, 6)) + 0.01 * random.standard_normal(samples)).astype(
                np.float32
            )
        )
    return clips


def write_corpus(folder: Path, minutes: float) -> None:
    """Write a split train of clips that repeat every ten minutes."""
    (folder / "data").mkdir(parents=True)
    sounds = [(len(clip) / 16_000, encode_flac(clip)) for clip in voices(np.linspace(*SECONDS, 54))]

    def rows():
        seconds = 0.0
        number = 0
        while seconds < 60 * minutes:
            duration, sound = sounds[number % len(sounds)]
            yield {
                "id": f"clip_{number:06d}",
                "audio": {"bytes": sound, "path": None},
                "text": "",
                "speaker_id": "one",
                "group": "tones",
                "duration": duration,
                "source_file": "tones.wav",
                "start": seconds,
            }
            seconds = seconds + duration
            number = number + 1

    Dataset.from_generator(rows, cache_dir=str(folder / "cache")).cast_column(
        "audio", Audio(16_000, decode=False)
    ).to_parquet(folder / "data" / "train.parquet", batch_size=100)
    (folder / "README.md").write_text(CARD.format(minutes=minutes))


if __name__ == "__main__":
    main()
