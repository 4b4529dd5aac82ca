"""Time and peak memory of clustering many embeddings, from the file to the labels.

python benchmarks/clustering_scale.py
python benchmarks/clustering_scale.py --runs spectral:100000

The embeddings are synthetic: eight overlapping groups in a twelve-dimensional space inside that of Whisper tiny; a
twentieth of the embeddings are far from all groups. Each run is its own process, so its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from sklearn.metrics import adjusted_rand_score

from hf_components.moe.clustering import ClusteringArguments, cluster, load_embeddings

GROUPS = 8
LATENT = 12
D_MODEL = 384
SPEAKERS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs",
        nargs="+",
        metavar="ALGORITHM:UTTERANCES",
        default=["hdbscan:20000", "spectral:20000", "spectral:100000"],
    )
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.runs[0].partition(":")[0], args.measure)))
        return
    print("algorithm   utterances   time (s)   CPU (s)   peak memory (GiB)   clusters   ARI train   ARI other split")
    for run in args.runs:
        algorithm, _, utterances = run.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            write_embeddings(Path(folder), int(utterances))
            found = json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--runs", run, "--measure", folder],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                ).stdout
            )
        print(
            f"{algorithm:9} {int(utterances):12,} {found['seconds']:10.1f} {found['cpu_seconds']:9.1f} "
            f"{found['peak_gib']:19.2f} {found['clusters']:10} {found['ari_train']:11.3f} {found['ari_other']:17.3f}",
            flush=True,
        )


def measure(algorithm: str, folder: str) -> dict:
    start = time.perf_counter()
    cpu_start = time.process_time()
    embeddings = load_embeddings(folder)
    found = cluster(embeddings, ClusteringArguments(algorithm=algorithm, cluster_by="utterance", num_experts=GROUPS))
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    train = embeddings.splits == "train"
    near = embeddings.groups != "far"
    ari = [adjusted_rand_score(embeddings.groups[rows], found.labels[rows]) for rows in (train & near, ~train & near)]
    return {
        **times,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "clusters": found.summary["num_experts"],
        "ari_train": ari[0],
        "ari_other": ari[1],
    }


def write_embeddings(folder: Path, utterances: int) -> None:
    """Write a file like that of `extract_embeddings`; a fifth of the speakers are in the split dev."""
    random = np.random.default_rng(0)
    group = random.integers(GROUPS, size=utterances)
    latent = 2 * random.normal(size=(GROUPS, LATENT))[group] + 0.8 * random.normal(size=(utterances, LATENT))
    far = random.random(utterances) < 0.05
    latent[far] = 4 * random.normal(size=(far.sum(), LATENT))
    vectors = latent @ random.normal(size=(LATENT, D_MODEL)) / LATENT**0.5 + 0.3 * random.normal(
        size=(utterances, D_MODEL)
    )
    speaker = np.arange(utterances) % SPEAKERS
    pyarrow.parquet.write_table(
        pyarrow.table(
            {
                "id": [f"u{i}" for i in range(utterances)],
                "split": np.where(speaker % 5 == 4, "dev", "train"),
                "speaker_id": [f"s{number}" for number in speaker],
                "group": np.where(far, "far", np.array([f"g{number}" for number in group])),
                "duration": random.uniform(1, 10, utterances),
                "embedding": pyarrow.FixedSizeListArray.from_arrays(vectors.astype(np.float32).ravel(), D_MODEL),
            }
        ),
        folder / "embeddings.parquet",
    )
    (folder / "embeddings.json").write_text(json.dumps({"model": "synthetic", "layer": 2, "pooling": "mean"}))


if __name__ == "__main__":
    main()
