"""Score the transcripts of several systems against references, per group, and compare the systems."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import datasets
from rich.markup import escape
from rich.table import Table

from hf_components.metrics.whisper_wer.counting import normalize
from hf_components.reporting import interval, percent, plot_bars
from hf_components.runtime import (
    GROUP,
    SPEAKER,
    TEXT,
    UserError,
    first_few,
    id_field,
    label_field,
    read_by_id,
    text_field,
)
from hf_components.scoring.error_rates import paired_bootstrap, score, utterance_errors
from hf_components.speech import UNKNOWN, count_speakers, is_known, plain_text

logger = logging.getLogger(__name__)

NOT_PLAIN = "typographic apostrophes, invisible characters, HTML entities or special tokens"
UNKNOWN_GROUP = "unknown"
RATES = ("wer", "wer_clipped", "cer", "cer_clipped")
COUNTS = ("substitutions", "deletions", "insertions")


@dataclass
class References:
    """References: lists of equal length, with one item per utterance. `speakers` may have "unknown"."""

    ids: list[str]
    texts: list[str]
    speakers: list[str]
    groups: list[str]

    @property
    def units(self) -> list[str] | None:
        """What intervals resample: speakers, or None for utterances if a speaker is unknown."""
        return self.speakers if all(map(is_known, self.speakers)) else None


def references_of_corpus(corpus: datasets.Dataset) -> References:
    """The texts of a split of a prepared corpus."""
    return References(*(corpus[column][:] for column in ("id", "text", "speaker_id", "group")))


def references_of_manifest(path: str | Path) -> References:
    """The transcripts of a manifest, in the form that the competition scores; rows without one are left out.

    Raises:
        UserError: the file is not a manifest, has no transcripts, or has an id twice.
    """
    rows = {}
    without = []
    changed = []
    for line, name, row in read_by_id(path):
        if row.get(TEXT) is None or row[TEXT] != row[TEXT]:  # pandas writes NaN for a missing value
            without.append(line)
            continue
        group = label_field(row, GROUP, path, line) or ""
        text = text_field(row, TEXT, path, line).strip()
        rows[name] = (
            plain_text(text),
            id_field(row, SPEAKER, path, line),
            group or UNKNOWN_GROUP,
        )
        if _is_scored_otherwise(text):
            changed.append(line)
    if not rows:
        raise UserError(f"{path} has no {TEXT} to score against")
    if without:
        text = "%d rows of %s have no %s and are not scored: line %s"
        logger.warning(text, len(without), path, TEXT, first_few(without))
    if changed:
        text = (
            "%d references of %s hold %s and are scored as plain text; a competition may count them as errors: line "
        )
        text += "%s"
        logger.warning(text, len(changed), path, NOT_PLAIN, first_few(changed))
    return References(list(rows), *map(list, zip(*rows.values(), strict=True)))


def read_transcripts(path: str | Path) -> dict[str, str]:
    """Text by id. Raises UserError if a line lacks `utterance_id` or `orthographic_text`, or an id appears twice."""
    found = {name: text_field(row, TEXT, path, line) for line, name, row in read_by_id(path)}
    if odd := [name for name, text in found.items() if _is_scored_otherwise(text)]:
        text = "%d transcripts of %s hold %s, which count as errors, such as %s; write them as plain text"
        logger.warning(text, len(odd), path, NOT_PLAIN, odd[0])
    return found


def align(name: str, transcripts: Mapping[str, str], references: References) -> tuple[list[str], dict]:
    """Transcripts in the order of the references. A missing one is empty, so that all its words count as deleted.

    Returns:
        the texts, and the numbers of ids that are `missing` and `unknown`; both cause a warning.
    Raises:
        UserError: no id is among the references.
    """
    missing = [utterance for utterance in references.ids if utterance not in transcripts]
    unknown = list(transcripts.keys() - set(references.ids))
    if len(missing) == len(references.ids):
        raise UserError(
            f"{name} has no transcript of any of the {len(missing)} utterances, such as {missing[0]}; it holds "
            f"{first_few(unknown) or 'nothing'}: does it belong to another split?"
        )
    if missing:
        text = "%s lacks %d of %d utterances, which count as empty: %s"
        logger.warning(text, name, len(missing), len(references.ids), first_few(missing))
    if unknown:
        text = "%s has %d ids that are not among the references and are left out: %s"
        logger.warning(text, name, len(unknown), first_few(sorted(unknown)))
    texts = [transcripts.get(utterance, "") for utterance in references.ids]
    return texts, {"missing": len(missing), "unknown": len(unknown)}


def evaluate(
    systems: Mapping[str, list[str]],
    references: References,
    *,
    num_bootstrap: int,
    seed: int,
    worst: int,
    language: str | None = None,
) -> tuple[dict, list[dict]]:
    """Score every system, and compare each with those before it.

    Args:
        systems: name -> texts in the order of the references.
        num_bootstrap: resamples for each interval: over speakers, or over utterances if a speaker is unknown.
        worst: number of utterances with the most errors to list per system.
        language: language code of the texts; None for English.
    Returns:
        a dictionary and a list. The dictionary has `references` (size of the scored data), `systems` (name -> figures
        of the `whisper_wer` metric and `worst` utterances), `differences` (paired comparisons, b - a) and `bootstrap`.
        The list has a row per utterance with the text of each system, those with the most errors first.
    """
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    errors = {name: utterance_errors(texts, references.texts, language) for name, texts in systems.items()}
    figures = {
        name: score(texts, references.texts, references.groups, references.units, language=language, **resampling)
        for name, texts in systems.items()
    }
    differences = [
        {"a": a, "b": b, **paired_bootstrap(errors[a], errors[b], references.units, **resampling)}
        for a, b in combinations(systems, 2)
    ]
    for name, texts in systems.items():
        counts = errors[name]
        order = sorted(range(len(texts)), key=lambda i: (-counts["errors"][i], counts["reference_words"][i]))
        figures[name]["worst"] = [
            {
                "id": references.ids[i],
                "group": references.groups[i],
                "errors": int(counts["errors"][i]),
                "reference_words": int(counts["reference_words"][i]),
                "reference": references.texts[i],
                "prediction": texts[i],
            }
            for i in order[:worst]
            if counts["errors"][i]
        ]
    utterances = [
        {
            "id": references.ids[i],
            "speaker_id": references.speakers[i],
            "group": references.groups[i],
            "reference": references.texts[i],
            "errors": {name: int(errors[name]["errors"][i]) for name in systems},
            "predictions": {name: texts[i] for name, texts in systems.items()},
        }
        for i in range(len(references.ids))
    ]
    utterances.sort(key=lambda row: -sum(row["errors"].values()))
    return {
        "references": {
            "utterances": len(references.ids),
            "speakers": count_speakers(references.speakers),
            "groups": dict(sorted(Counter(references.groups).items(), key=_by_first_number)),
        },
        "systems": figures,
        "differences": differences,
        "bootstrap": {
            "resamples": num_bootstrap,
            "unit": "speaker" if references.units else "utterance",
            "confidence": 0.95,
            "seed": seed,
        },
    }, utterances


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
        table.add_column("group", no_wrap=True)
        for heading in ("utterances", "speakers", "WER", "clipped", "CER", "clipped", "sub", "del", "ins"):
            table.add_column(heading, justify="right")
        for group, row in [*((group, figures["per_group"][group]) for group in groups), ("all", figures)]:
            table.add_row(
                escape(group),
                str(row["utterances"]),
                str(row["speakers"] or UNKNOWN),
                *(f"{percent(row[rate])} ({interval(row[f'{rate}_interval'])})" for rate in RATES),
                *(str(row[count]) for count in COUNTS),
                style="bold" if group == "all" else None,
            )
        worst = Table(title=f"{escape(name)}: most errors")
        for heading in ("utterance", "group", "errors", "reference", "prediction"):
            worst.add_column(heading)
        for row in figures["worst"]:
            errors = f"{row['errors']} of {row['reference_words']}"
            worst.add_row(*map(escape, (row["id"], row["group"], errors, row["reference"], row["prediction"])))
        shown += [table, worst] if figures["worst"] else [table]
    if result["differences"]:
        table = Table(
            title="Difference in WER (points)",
            caption=f"95 % paired bootstrap over {unit}s; an interval that contains 0 shows no difference",
        )
        for heading in ("system", "minus", "WER", "interval"):
            table.add_column(heading)
        for line in result["differences"]:
            table.add_row(
                escape(line["b"]), escape(line["a"]), percent(line["difference"]), interval(line["interval"])
            )
        shown.append(table)
    return shown


def plot_evaluation(file: str | Path, result: dict) -> None:
    """Plot the WER of every system per group, with intervals."""
    systems = result["systems"]
    counts = result["references"]
    groups = [*counts["groups"], "all"]

    def rows(figures: dict) -> list[dict]:
        return [*(figures["per_group"][group] for group in groups[:-1]), figures]

    plot_bars(
        file,
        {name: [100 * row["wer"] for row in rows(figures)] for name, figures in systems.items()},
        groups,
        f"WER (%) with 95 % interval over {result['bootstrap']['unit']}s",
        f"WER per group, {counts['utterances']} utterances of {counts['speakers'] or UNKNOWN} speakers",
        {
            name: [
                None if row["wer_interval"] is None else [100 * bound for bound in row["wer_interval"]]
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


def _is_scored_otherwise(text: str) -> bool:
    """Whether the plain text has another score than the text itself."""
    plain = plain_text(text)
    return plain != " ".join(text.split()) and normalize(plain) != normalize(text)


def _by_first_number(item: tuple[str, int]) -> tuple:
    """Sort key: age buckets by age (3-4, 5-7, 12+), then names without a number in alphabetical order."""
    number = re.search(r"\d+", item[0])
    return (number is None, int(number[0]) if number else 0, item[0])
