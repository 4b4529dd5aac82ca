"""Score the transcripts of several systems against references, per group, and compare the systems."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from hf_components.metrics.whisper_wer.bootstrap import COUNTED
from hf_components.reporting import interval, percent, plot_bars
from hf_components.runtime import PHONETIC, UserError
from hf_components.scoring.error_rates import paired_bootstrap, score, utterance_errors
from hf_components.scoring.transcripts import References
from hf_components.speech import UNKNOWN, WORDS, count_speakers, language_code

logger = logging.getLogger(__name__)

RATES = ("wer", "wer_clipped", "cer", "cer_clipped")
WITHOUT_SPACES = ("zh", "yue", "ja", "th", "lo", "km", "my", "bo")  # languages whose words are not separated
COUNTS = ("substitutions", "deletions", "insertions")


def evaluate(
    systems: Mapping[str, list[str]],
    references: References,
    *,
    num_bootstrap: int,
    seed: int,
    worst: int,
    language: str | None = None,
    target: str = WORDS,
) -> tuple[dict, list[dict]]:
    """Score every system, and compare each with those before it.

    Args:
        systems: name -> texts in the order of the references.
        num_bootstrap: resamples for each interval: over speakers, or over utterances if a speaker is unknown.
        worst: number of utterances with the most errors to list per system.
        language: language code of the texts; None for English.
        target: what the texts are. Words are judged by their WER, IPA by its character error rate.
    Returns:
        a dictionary and a list. The dictionary has `references` (size of the scored data), `systems` (name -> figures
        of the `whisper_wer` metric and `worst` utterances), `differences` (paired comparisons, b - a) and `bootstrap`.
        The list has a row per utterance with the text of each system, those with the most errors first.
    """
    rate = "cer" if target == PHONETIC else "wer"
    if target == WORDS and language_code(language or "en") in WITHOUT_SPACES:
        logger.warning("%s is written without spaces, so that a word is a whole phrase: use the CER", language)
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    how = {"language": language, "target": target}
    errors = {name: utterance_errors(texts, references.texts, **how) for name, texts in systems.items()}
    figures = {
        name: score(texts, references.texts, references.groups, references.units, **how, **resampling)
        | {"worst": _worst(texts, references, errors[name], rate, worst)}
        for name, texts in systems.items()
    }
    differences = [
        {"a": a, "b": b, **paired_bootstrap(errors[a], errors[b], references.units, **resampling, rate=rate)}
        for a, b in combinations(systems, 2)
    ]
    return {
        "target": target,
        "rate": rate,
        "references": {
            "utterances": len(references.ids),
            "speakers": count_speakers(references.speakers),
            "groups": dict(sorted(Counter(references.groups).items(), key=_by_first_number)),
        },
        "systems": figures,
        "differences": differences,
        "bootstrap": resampling_of(references, num_bootstrap, seed),
    }, _utterances(systems, references, {name: counts[COUNTED[rate][0]] for name, counts in errors.items()})


def resampling_of(references: References, num_bootstrap: int, seed: int) -> dict:
    """The settings of the intervals, as results have them."""
    unit = "speaker" if references.units else "utterance"
    return {"resamples": num_bootstrap, "unit": unit, "confidence": 0.95, "seed": seed}


def _worst(
    texts: Sequence[str], references: References, counts: Mapping[str, np.ndarray], rate: str, most: int
) -> list[dict]:
    """The utterances with the most errors of a system; of equals the shortest ones."""
    wrong, length = COUNTED[rate]
    order = sorted(range(len(texts)), key=lambda i: (-counts[wrong][i], counts[length][i]))
    return [
        {
            "id": references.ids[i],
            "group": references.groups[i],
            "errors": int(counts[wrong][i]),
            length: int(counts[length][i]),
            "reference": references.texts[i],
            "prediction": texts[i],
        }
        for i in order[:most]
        if counts[wrong][i]
    ]


def _utterances(
    systems: Mapping[str, list[str]], references: References, errors: Mapping[str, np.ndarray]
) -> list[dict]:
    """A row per utterance with the text of each system, those with the most errors first."""
    rows = [
        {
            "id": references.ids[i],
            "speaker_id": references.speakers[i],
            "group": references.groups[i],
            "reference": references.texts[i],
            "errors": {name: int(errors[name][i]) for name in systems},
            "predictions": {name: texts[i] for name, texts in systems.items()},
        }
        for i in range(len(references.ids))
    ]
    return sorted(rows, key=lambda row: -sum(row["errors"].values()))


def tables(result: dict) -> list[Table]:
    """Per system a table of figures and one of its worst utterances; then the differences between systems."""
    shown = []
    groups = result["references"]["groups"]
    unit = result["bootstrap"]["unit"]
    for name, figures in result["systems"].items():
        table = Table(
            title=f"{escape(name)}: error rates (%)",
            caption=f"in brackets: 95 % bootstrap over {unit}s; clipped: at most as many errors per utterance as it "
            "has words (characters)",
        )
        headings = ("WER", "clipped", "CER", "clipped", "sub", "del", "ins")
        add_groups(table, headings, [(group, figures["per_group"][group]) for group in groups], figures, RATES, COUNTS)
        worst = Table(title=f"{escape(name)}: most errors")
        for heading in ("utterance", "group", "errors", "reference", "prediction"):
            worst.add_column(heading)
        for row in figures["worst"]:
            errors = f"{row['errors']} of {row[COUNTED[result['rate']][1]]}"
            worst.add_row(*map(escape, (row["id"], row["group"], errors, row["reference"], row["prediction"])))
        shown += [table, worst] if figures["worst"] else [table]
    if result["differences"]:
        table = Table(
            title=f"Difference in {result['rate'].upper()} (points)",
            caption=f"95 % paired bootstrap over {unit}s; an interval that contains 0 shows no difference",
        )
        for heading in ("system", "minus", result["rate"].upper(), "interval"):
            table.add_column(heading)
        for line in result["differences"]:
            table.add_row(
                escape(line["b"]), escape(line["a"]), percent(line["difference"]), interval(line["interval"])
            )
        shown.append(table)
    return shown


def add_groups(
    table: Table,
    headings: Sequence[str],
    groups: Iterable[tuple[str, dict]],
    everywhere: dict,
    rates: Sequence[str],
    counts: Sequence[str] = (),
) -> None:
    """Fill a table with a row for each group of utterances, and one for all.

    Args:
        headings: of the rates and counts, after utterances and speakers.
        groups: names with their figures.
    """
    table.add_column("group", no_wrap=True)
    for heading in ("utterances", "speakers", *headings):
        table.add_column(heading, justify="right")
    for group, row in [*groups, ("all", everywhere)]:
        table.add_row(
            escape(group),
            str(row["utterances"]),
            str(row["speakers"] or UNKNOWN),
            *(f"{percent(row[rate])} ({interval(row[f'{rate}_interval'])})" for rate in rates),
            *(str(row[count]) for count in counts),
            style="bold" if group == "all" else None,
        )


def plot_evaluation(file: str | Path, result: dict) -> None:
    """Plot the error rate of every system per group, with intervals."""
    rate = result["rate"]
    systems = result["systems"]
    counts = result["references"]
    groups = [*counts["groups"], "all"]

    def rows(figures: dict) -> list[dict]:
        return [*(figures["per_group"][group] for group in groups[:-1]), figures]

    plot_bars(
        file,
        {name: [100 * row[rate] for row in rows(figures)] for name, figures in systems.items()},
        groups,
        f"{rate.upper()} (%) with 95 % interval over {result['bootstrap']['unit']}s",
        f"{rate.upper()} per group, {counts['utterances']} utterances of {counts['speakers'] or UNKNOWN} speakers",
        {
            name: [
                None if row[f"{rate}_interval"] is None else [100 * bound for bound in row[f"{rate}_interval"]]
                for row in rows(figures)
            ]
            for name, figures in systems.items()
        },
    )


def distinct_names(paths: Sequence[str]) -> list[str]:
    """A short name for each path: its stem, with enough of the folders above it to make all names different."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same file is given twice: {', '.join(paths)}; leave one of them out")


def _by_first_number(item: tuple[str, int]) -> tuple:
    """Sort key: age buckets by age (3-4, 5-7, 12+), then names without a number in alphabetical order."""
    number = re.search(r"\d+", item[0])
    return (number is None, int(number[0]) if number else 0, item[0])
