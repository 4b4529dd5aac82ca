"""The benchmarks of all folds as one: every speaker was held out once."""

from collections.abc import Mapping
from pathlib import Path

import datasets

from hf_components.moe.benchmark.rows import EXPERT, Row, score_rows
from hf_components.runtime import UserError, read_json_lines, read_record

SHIPPED = "shipped"  # row of the system that each fold released, which judges the choice too
RESAMPLES = 1000


def cross_validated(runs: Mapping[int, Path], rows_shipped: Mapping[str, str], folds: int, *, seed: int) -> dict:
    """Score the pooled transcripts of the folds, with intervals over all their speakers.

    Args:
        runs: output folder of `run_moe_pipeline` by fold.
        rows_shipped: row of the benchmark by the name of a released system.
        folds: number of folds of which `runs` are some.
        seed: seed of the resampling.
    Returns:
        the result of `score_rows` with `sample`, `folds`, and `per_fold`: of each fold the WER per system, what was
        `shipped` and the `seconds` it took.
    Raises:
        UserError: the folds have no system in common, or a file is damaged.
    """
    again = "delete the folder of that fold and run the same command again"
    form = {"benchmark": dict, "shipped": str}
    results = {fold: read_record(run / "results.json", form, again) for fold, run in runs.items()}
    lines = []
    for fold, run in runs.items():
        row = rows_shipped[results[fold]["shipped"]]
        for _, line in read_json_lines(run / "benchmark" / "transcripts.jsonl"):
            lines.append({**line, SHIPPED: line[row]})
    benchmarks = [result["benchmark"] for result in results.values()]
    systems = [name for name in benchmarks[0]["rows"] if all(name in one["rows"] for one in benchmarks)]
    if not systems:
        raise UserError("the folds have no system in common; run all of them with the same --benchmark_models")
    rows = [_pooled(name, [one["rows"][name] for one in benchmarks], lines, results) for name in systems]
    released = [result["benchmark"]["rows"][rows_shipped[result["shipped"]]] for result in results.values()]
    rows.append(_pooled(SHIPPED, released, lines, results))
    seconds = sum(one["rows"][systems[0]]["audio_seconds"] for one in benchmarks)
    corpus = datasets.Dataset.from_dict(
        {
            "text": [line["reference"] for line in lines],
            "speaker_id": [line["speaker_id"] for line in lines],
            "group": [line["group"] for line in lines],
            "duration": [seconds / len(lines)] * len(lines),
        }
    )
    return {
        "folds": folds,
        "sample": {
            "split": f"{len(runs)} of {folds} folds",
            "utterances": len(lines),
            "speakers": len(set(corpus["speaker_id"])),
        },
        **score_rows(rows, corpus, _experts(lines, rows[0].language), num_bootstrap=RESAMPLES, seed=seed),
        "per_fold": {
            str(fold): {
                "wer": {name: result["benchmark"]["rows"][name]["wer"] for name in systems},
                "shipped": result["shipped"],
                "seconds": result["seconds"],
            }
            for fold, result in results.items()
        },
    }


def _experts(lines: list[dict], language: str) -> list[Row]:
    # Each expert alone. The folds may differ in how many there are; then there is no mean of their errors.
    numbers = {sum(name.startswith(EXPERT) for name in line) for line in lines}
    names = [f"{EXPERT}{i}" for i in range(numbers.pop())] if len(numbers) == 1 else []
    return [Row(name, "", [line[name] for line in lines], 0.0, language) for name in names]


def _pooled(name: str, figures: list[dict], lines: list[dict], results: Mapping[int, dict]) -> Row:
    contexts = dict.fromkeys(row["audio_context"] for row in figures)
    language = next(iter(results.values()))["language"]
    return Row(
        name,
        ", ".join(contexts),
        [line[name] for line in lines],
        sum(row["seconds"] for row in figures),
        language,
        decodes=max(row["decodes"] for row in figures),
    )
