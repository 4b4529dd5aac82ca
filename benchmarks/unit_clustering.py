"""Our k-means beside scikit-learn's MiniBatchKMeans on the same features: inertia and time.

OMP_NUM_THREADS=1 python benchmarks/unit_clustering.py
OMP_NUM_THREADS=1 python benchmarks/unit_clustering.py --corpus runs/units/segments

Features are MFCC of a corpus of segments, or synthetic: overlapping groups of uneven size. Both see the same frames:
ours in steps of 10,000 in an order that stays the same between passes, scikit-learn in its own random order, with its
own batch size and with ours. A full k-means (Lloyd's) shows how much better either could be. Inertia is that of all
frames with the final centroids; the ratio is to MiniBatchKMeans with its own batch size.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from benchmarks.side_by_side import machine
from hf_components.acoustic_units import MFCC, AcousticUnitsModel, nearest_centroid
from hf_components.speech import load_corpus
from hf_components.units.learning import (
    SAMPLE,
    SAMPLE_PER_UNIT,
    FeatureStream,
    assign,
    finished,
    kmeans_plus_plus,
    plan_steps,
)
from hf_components.units.learning import MiniBatchKMeans as OurKMeans

STEP = 10_000  # frames


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", help="segments whose MFCC are clustered; default: synthetic features")
    parser.add_argument("--frames", type=int, default=100_000, help="synthetic frames")
    parser.add_argument("--num_units", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    features = of_corpus(args.corpus) if args.corpus else synthetic(args.frames)
    features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]
    points = features.numpy()
    units = args.num_units

    systems: dict[str, Callable[[int], torch.Tensor]] = {
        "MiniBatchKMeans": lambda seed: sklearn_centroids(MiniBatchKMeans(units, n_init=1, random_state=seed), points),
        f"MiniBatchKMeans, {STEP}": lambda seed: sklearn_centroids(
            MiniBatchKMeans(units, n_init=1, batch_size=STEP, random_state=seed), points
        ),
        "ours": lambda seed: ours(features, units, seed),
        "KMeans": lambda seed: sklearn_centroids(KMeans(units, n_init=1, random_state=seed), points),
    }
    print(
        machine(),
        f"{len(points)} frames of {points.shape[1]} features, {units} units, mean of {args.seeds} seeds",
        "",
        f"{'':24}{'inertia per frame':>18}{'ratio':>8}{'seconds':>10}{'of CPU':>10}",
        sep="\n",
    )
    results: dict[str, dict[str, float]] = {}
    for name, fit in systems.items():
        start = time.perf_counter()
        cpu_start = time.process_time()
        fitted = [fit(seed) for seed in range(args.seeds)]
        seconds, cpu = (
            (now - then) / args.seeds for now, then in ((time.perf_counter(), start), (time.process_time(), cpu_start))
        )
        inertias = [nearest_centroid(features, centroids)[1].mean().item() for centroids in fitted]
        first = results.get("MiniBatchKMeans", {"inertia": np.mean(inertias)})["inertia"]
        results[name] = {
            "inertia": float(np.mean(inertias)),
            "ratio": float(np.mean(inertias) / first),
            "seconds": seconds,
            "cpu_seconds": cpu,
        }
        print(
            f"{name:24}{results[name]['inertia']:18.4f}{results[name]['ratio']:8.4f}{seconds:10.2f}{cpu:10.2f}",
            flush=True,
        )
    return results


def sklearn_centroids(model: KMeans | MiniBatchKMeans, points: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(model.fit(points).cluster_centers_)


def ours(features: torch.Tensor, num_units: int, seed: int, passes: int = 10) -> torch.Tensor:
    """The same as `learn_centroids`, without reading files."""
    kmeans = OurKMeans(kmeans_plus_plus(features[: max(SAMPLE, SAMPLE_PER_UNIT * num_units)], num_units, seed))
    while not finished(kmeans, passes):
        for step in features.split(STEP):
            kmeans.add(assign(step, kmeans.centroids))
            kmeans.end_step()
        kmeans.end_pass()
        kmeans.revived.append(0)
    return kmeans.centroids


def of_corpus(corpus_dir: str) -> torch.Tensor:
    rows = load_corpus(corpus_dir, "train")
    steps = plan_steps(rows["id"][:], rows["duration"][:], 0, 600, 60)
    return torch.cat(
        list(FeatureStream(AcousticUnitsModel.from_encoder(MFCC), rows)([b for step in steps for b in step]))
    )


def synthetic(frames: int, dim: int = 39, groups: int = 300) -> torch.Tensor:
    random = np.random.default_rng(0)
    group = random.choice(groups, size=frames, p=random.dirichlet(np.ones(groups)))
    centres = random.standard_normal((groups, dim)) * np.linspace(4, 0.2, dim)
    return torch.from_numpy((centres[group] + random.standard_normal((frames, dim))).astype(np.float32))


if __name__ == "__main__":
    main()
