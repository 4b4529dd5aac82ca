"""Query by example: how well the segments that hold a word are found by one example of it (MAP).

python benchmarks/query_by_example.py --corpus runs/units/segments --units_dir runs/units/units \\
    --words runs/silver/words.jsonl --output_dir runs/query

--words is what benchmarks/silver_alignments.py writes. An example is the first token of a word type; all other
segments are ranked by their best stretch; those that hold the word are right. Beside find_motifs, which has the units
of the corpus alone, stand four searches that have its audio: dynamic time warping over the posteriors of the units,
over the features that they quantise, over MFCC, and a random order. Leaves results.json.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from datasets import concatenate_datasets

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints import load_model
from hf_components.runtime import Progress, write_json
from hf_components.speech import load_corpus, waveforms
from hf_components.units import SECONDS_PER_UNIT, read_units
from hf_components.units.search.dtw import best_paths
from hf_components.units.search.example import LEAST, costs_of_units

SHORTEST, LETTERS, SEGMENTS = 0.3, 4, 3  # of a word that is searched for: seconds, letters, segments with it
RANDOM_ORDERS = 20
HOP, OVERLAP = 320, 80  # samples from one frame to the next, and of which it reaches into it
Search = Callable[[int, slice, list[int]], np.ndarray]  # segment and frames of the example, segments: their costs


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "units_dir", "words"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--types", type=int, default=60, help="word types, drawn at random")
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args(argv)
    model = load_model(AcousticUnitsModel, f"{args.units_dir}/model")
    rows = concatenate_datasets(list(load_corpus(args.corpus, shared_speakers=True).values()))
    held, examples = read_words(args.words, dict(zip(rows["id"][:], rows["start"][:], strict=True)))
    rows = rows.select([i for i, name in enumerate(rows["id"][:]) if name in held])
    place = {name: i for i, name in enumerate(rows["id"][:])}
    known = sorted(word for word in examples if sum(word in words for words in held.values()) >= SEGMENTS)
    rng = np.random.default_rng(args.seed)
    known = [known[i] for i in rng.permutation(len(known))[: args.types]]
    searches = searches_of(model, rows, read_units(args.units_dir).rows.to_pylist())
    found: dict[str, list[float]] = defaultdict(list)
    for word in Progress(known, desc="searching", unit="word"):
        name, start, end = examples[word]
        others = [i for other, i in place.items() if other != name]
        right = np.array([word in held[rows["id"][i]] for i in others])
        frames = slice(round(start / SECONDS_PER_UNIT), max(round(end / SECONDS_PER_UNIT), 1))
        for label, search in searches.items():
            mean, _ = best_paths(search(place[name], frames, others))
            found[label].append(average_precision(mean.min(1), right))
        orders = [average_precision(rng.random(len(right)), right) for _ in range(RANDOM_ORDERS)]
        found["random order"].append(float(np.mean(orders)))
    results = {
        "map": {label: float(np.mean(values)) for label, values in found.items()},
        "word_types": len(known),
        "segments": len(rows),
        "units": model.identity(),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.output_dir / "results.json", results)
    print(json.dumps(results, indent=1))
    return results


def read_words(file: str, starts: dict[str, float]) -> tuple[dict[str, set[str]], dict[str, tuple[str, float, float]]]:
    """The words of each segment, and of each word that is long enough its first token: segment, start, end in it."""
    held: dict[str, set[str]] = defaultdict(set)
    examples: dict[str, tuple[str, float, float]] = {}
    for line in Path(file).read_text().splitlines():
        row = json.loads(line)
        name = row["segment"]
        word = row["word"]
        held[name].add(word)
        if row["end"] - row["start"] >= SHORTEST and len(word) >= LETTERS:
            examples.setdefault(word, (name, row["start"] - starts[name], row["end"] - starts[name]))
    return held, examples


def searches_of(model: AcousticUnitsModel, rows, table: list[dict]) -> dict[str, Search]:
    clips = [waveforms([row])[0] for row in rows]
    units = {row["id"]: np.array(row["units"]) for row in table}
    units = [units[name] for name in rows["id"][:]]
    features = [features_of(model, clip) for clip in clips]
    mfcc = [features_of(AcousticUnitsModel.from_encoder("mfcc"), clip) for clip in clips]
    costs = [costs_of_units(model, clip) for clip in clips]
    posteriors = [np.exp(-of_clip) for of_clip in costs]

    def by_units(example: int, frames: slice, others: list[int]) -> np.ndarray:
        of_example = costs_of_units(model, clips[example][frames.start * HOP : frames.stop * HOP + OVERLAP])
        return padded([of_example[:, units[i]] for i in others])

    def in_context(example: int, frames: slice, others: list[int]) -> np.ndarray:
        return padded([costs[example][frames][:, units[i]] for i in others])

    def by_posteriors(example: int, frames: slice, others: list[int]) -> np.ndarray:
        query = posteriors[example][frames]
        return padded([-np.log((query @ posteriors[i].T).clip(LEAST)) for i in others])

    return {
        "find_motifs": by_units,
        "the same, the example in its sentence": in_context,
        "posteriors of units": by_posteriors,
        "features": by_cosine(features),
        "mfcc": by_cosine(mfcc),
    }


def by_cosine(features: list[np.ndarray]) -> Search:
    """1 - the cosine of features that are standardised over the corpus."""
    whole = np.concatenate(features)
    mean = whole.mean(0)
    scale = whole.std(0)
    scaled = [(clip - mean) / scale for clip in features]
    scaled = [clip / np.linalg.norm(clip, axis=1, keepdims=True) for clip in scaled]
    return lambda example, frames, others: padded([1 - scaled[example][frames] @ scaled[i].T for i in others])


def features_of(model: AcousticUnitsModel, clip: np.ndarray) -> np.ndarray:
    return model.features(torch.from_numpy(clip)[None])[0][0].numpy()


def padded(costs: list[np.ndarray]) -> np.ndarray:
    """`(segments, example, frames)` with infinite costs after the end of a segment."""
    whole = np.full((len(costs), costs[0].shape[0], max(cost.shape[1] for cost in costs)), np.inf, dtype=np.float32)
    for place, cost in enumerate(costs):
        whole[place, :, : cost.shape[1]] = cost
    return whole


def average_precision(costs: np.ndarray, right: np.ndarray) -> float:
    """Mean precision at the ranks of the segments that are right."""
    ranked = right[np.argsort(costs, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


if __name__ == "__main__":
    main()
