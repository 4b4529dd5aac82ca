"""The effect of training on gold: error rates before and after, on the same recordings, per condition."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hf_components.correction.finetuning.samples import Sample, has_errors
from hf_components.metrics.whisper_wer.bootstrap import error_rate
from hf_components.reporting import interval, plot_bars
from hf_components.scoring import paired_bootstrap, utterance_errors

# rate: (numerator, denominator)
RATES = {
    "wer": ("errors", "reference_words"),
    "cer": ("character_errors", "reference_characters"),
    "wer_truth": ("truth_errors", "truth_words"),
    "error_rate": ("error_samples", "samples"),
}
NAMES = {"wer": "WER ({gold})", "wer_truth": "WER (truth)", "cer": "CER ({gold})", "error_rate": "Error Rate"}
EXAMPLES = 5
SILENT = 0.5  # below this share of the gold's length, a recogniser may have fewer errors because it writes less
WIDTH = 88  # characters of the summary


def measure(samples: Sequence[Sample], texts: Sequence[str]) -> dict:
    """Error rates of transcripts with their counts, after Whisper's `EnglishTextNormalizer` on both sides.

    Args:
        texts: transcript of each sample.
    Returns:
        `wer` and `cer` against the gold; `wer_truth` against the truth, for the recordings where it is known (None if
        there is none); `error_rate`, the share of recordings with an error against the gold; the counts of `RATES`;
        `length_ratio`, `written_characters` / `reference_characters` of the gold; and the same for each condition in
        `per_condition`.
    """

    def figures(rows: list[int]) -> dict:
        counts = _counts([samples[i] for i in rows], [texts[i] for i in rows])
        sums = {rate: [int(column.sum()) for column in columns] for rate, columns in counts.items()}
        written = [texts[i] for i in rows]
        characters = int(utterance_errors(written, written)["reference_characters"].sum())
        return {
            "written_characters": characters,
            "length_ratio": float(error_rate(characters, sums["cer"][1])),
            **{rate: float(error_rate(*sums[rate])) if len(counts[rate][0]) else None for rate in RATES},
            **{name: value for rate, names in RATES.items() for name, value in zip(names, sums[rate], strict=True)},
        }

    return _overall_and_per_condition(samples, figures)


def improve(
    samples: Sequence[Sample], before: Sequence[str], after: Sequence[str], *, num_bootstrap: int, seed: int
) -> dict:
    """The decrease of each rate of `measure`; larger is better.

    Returns:
        per rate the difference, and in `<rate>_interval` its 95 % interval by paired bootstrap over recordings (None
        for fewer than two); `error_samples` that became right minus those that became wrong; `samples`; and
        `per_condition`.
    """

    def figures(rows: list[int]) -> dict:
        chosen = [samples[i] for i in rows]
        old, new = (_counts(chosen, [texts[i] for i in rows]) for texts in (before, after))
        found: dict = {"samples": len(rows)}
        for rate in RATES:
            # `paired_bootstrap` returns b - a, and a lower rate is better.
            a, b = (dict(zip(("errors", "reference_words"), counts[rate], strict=True)) for counts in (new, old))
            drawn = paired_bootstrap(a, b, num_bootstrap=num_bootstrap, seed=seed) if len(a["errors"]) else {}
            found |= {rate: drawn.get("difference"), f"{rate}_interval": drawn.get("interval")}
        found["error_samples"] = int(old["error_rate"][0].sum() - new["error_rate"][0].sum())
        return found

    return _overall_and_per_condition(samples, figures)


def is_silent(result: dict) -> bool:
    """Whether the fine-tuned recogniser writes so little that a lower error rate does not mean better recognition."""
    return result["finetuned"]["length_ratio"] < SILENT


def describe(title: str, figures: dict, where: str, gold: str) -> str:
    """Figures of `measure`, one per line; `where` describes the recordings and `gold` the references."""
    lines = [
        f"  WER: {_rate(figures['wer'])}",
        f"  CER: {_rate(figures['cer'])}",
        f"  Error Samples: {figures['error_samples']}/{figures['samples']}",
        f"  Error Rate: {_rate(figures['error_rate'])}",
    ]
    if figures["wer_truth"] is not None:
        lines.append(f"  WER against the truth: {_rate(figures['wer_truth'])}")
    lines += [
        f"  {condition}: WER {_rate(row['wer'])}, CER {_rate(row['cer'])}, error samples "
        f"{row['error_samples']}/{row['samples']}"
        for condition, row in figures["per_condition"].items()
    ]
    return "\n".join([f"{title} of {where} (gold: {gold}):", *lines])


def examples(samples: Sequence[Sample]) -> str:
    """A few recordings with errors of the recogniser, evenly spread."""
    wrong = [row for row, is_wrong in zip(samples, has_errors(samples), strict=True) if is_wrong]
    lines = []
    for row in wrong[:: max(1, len(wrong) // EXAMPLES)][:EXAMPLES]:
        lines += [f"  {row.id}", f"    heard: {row.heard}", f"    gold:  {row.gold}"]
        lines += [f"    truth: {row.truth}"] if row.truth is not None else []
    return "\n".join([f"Error samples ({min(len(wrong), EXAMPLES)} of {len(wrong)}):", *lines])


def summary(result: dict) -> str:
    """Table of baseline, fine-tuned and improvement from `evaluation_results.json`, in total and per condition."""
    source = result["gold"]["source"]
    parts = ("baseline", "finetuned", "improvement")
    where = "held-out recordings"
    if result["evaluated_on"] != "held_out":
        where = f"recordings, {result['training']['recordings']} OF THEM TRAINED ON"
    lines = [
        f"SUMMARY: {result['baseline']['samples']} {where}, gold: {source}",
        "=" * WIDTH,
        _line("", "Baseline", "Fine-tuned", "Improvement (points; interval)"),
    ]
    for condition in (None, *result["baseline"]["per_condition"]):
        old, new, change = (
            result[part] if condition is None else result[part]["per_condition"][condition] for part in parts
        )
        lines.append(f"{condition or 'all'} ({old['samples']})")
        for rate, name in NAMES.items():
            if old[rate] is not None:
                gain = f"{change[rate]:.4f} ({100 * change[rate]:.2f}; {interval(change[f'{rate}_interval'])})"
                lines.append(_line(f"  {name.format(gold=source)}", _rate(old[rate]), _rate(new[rate]), gain))
        wrong = [f"{row['error_samples']}/{row['samples']}" for row in (old, new)]
        lines.append(_line("  Error Samples", *wrong, str(change["error_samples"])))
        lines.append(_line("  Length by gold", *(f"{row['length_ratio']:.2f}" for row in (old, new)), ""))
    if is_silent(result):
        old, new = (result[part]["length_ratio"] for part in ("baseline", "finetuned"))
        lines += [
            "=" * WIDTH,
            f"WARNING: the fine-tuned model writes {new:.0%} of the characters of the gold, the baseline {old:.0%};",
            "it makes fewer errors because it writes less, not because it recognises better",
        ]
    lines += ["=" * WIDTH, f"gold: {result['gold']['label']}"]
    expected = result["gold"]["estimated_wer"]
    real = result["gold"]["wer_truth"]
    if expected is not None:
        known = "" if real is None else f"; by the truth it is {_rate(real)}"
        lines.append(f"expected WER of the gold, by disagreement: {_rate(expected)}{known}")
    verdict = result["release"]
    lines.append(f"{'better than the base' if verdict['released'] else 'NOT SURELY BETTER'}: {verdict['reason']}")
    lines.append("interval: 95 % paired bootstrap over recordings; one that contains 0 shows no improvement")
    return "\n".join(lines)


def plot_improvement(file: str | Path, result: dict) -> None:
    """Plot the WER before and after, against the truth if it is known, else against the gold."""
    known = result["baseline"]["wer_truth"] is not None
    rate, title = ("wer_truth", "WER against the truth") if known else ("wer", "WER against the gold")
    conditions = list(result["baseline"]["per_condition"])

    def bars(name: str) -> list[float]:
        figures = result[name]
        return [100 * (row[rate] or 0) for row in (figures, *(figures["per_condition"][key] for key in conditions))]

    plot_bars(
        file,
        {"baseline": bars("baseline"), "fine-tuned": bars("finetuned")},
        ["all", *conditions],
        "WER (%)",
        f"{title}, {result['baseline']['samples']} recordings",
    )


def _counts(samples: Sequence[Sample], texts: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per rate the errors and reference lengths of each recording that has this rate."""
    by_gold = utterance_errors(texts, [row.gold for row in samples])
    known = [(text, row.truth) for text, row in zip(texts, samples, strict=True) if row.truth is not None]
    by_truth = utterance_errors([text for text, _ in known], [truth for _, truth in known])
    wrong = (by_gold["errors"] > 0).astype(int)
    return {
        "wer": (by_gold["errors"], by_gold["reference_words"]),
        "cer": (by_gold["character_errors"], by_gold["reference_characters"]),
        "wer_truth": (by_truth["errors"], by_truth["reference_words"]),
        "error_rate": (wrong, np.ones_like(wrong)),
    }


def _overall_and_per_condition(samples: Sequence[Sample], figures: Callable[[list[int]], dict]) -> dict:
    conditions = sorted({row.condition for row in samples})
    per_condition = {
        name: figures([i for i, row in enumerate(samples) if row.condition == name]) for name in conditions
    }
    return {**figures(list(range(len(samples)))), "per_condition": per_condition}


def _line(name: str, old: str, new: str, change: str) -> str:
    return f"{name:18}{old:19}{new:19}{change}".rstrip()


def _rate(value: float) -> str:
    return f"{value:.4f} ({100 * value:.2f}%)"
