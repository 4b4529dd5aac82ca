"""Score several systems as the SAP challenge does, and read and write its CSV files of hypotheses (`id,raw_hypos`)."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
from rich.markup import escape
from rich.table import Table

from hf_components.metrics.whisper_wer.bootstrap import paired_bootstrap
from hf_components.reporting import interval, percent
from hf_components.runtime import UserError, atomic_write, first_few
from hf_components.scoring.comparison import add_groups, resampling_of
from hf_components.scoring.sap import RATES, SCORER, sap_counts, score_sap
from hf_components.scoring.transcripts import References, read_transcripts

logger = logging.getLogger(__name__)

ID, TEXT = "id", "raw_hypos"  # columns of a file of hypotheses
MANY = 10**9  # characters of a field; the csv module stops at 131,072


def sap_references(corpus: datasets.Dataset) -> References:
    """Both references of every utterance; `texts` holds pairs.

    Raises:
        UserError: the corpus has no column `references`.
    """
    if "references" not in corpus.column_names:
        raise UserError(
            "--scoring sap needs the column references, with and without disfluencies; the corpus has "
            f"{', '.join(corpus.column_names)}. Prepare it again: recipes/prepare_corpus.py --builder speaker_json"
        )
    return References(*(corpus[column][:] for column in ("id", "references", "speaker_id", "group")))


def groups_not_scored(corpus: datasets.DatasetDict, split: str) -> list[str]:
    """Groups, such as etiologies, of other splits that this split lacks; a warning names them."""
    everywhere = {group for rows in corpus.values() for group in rows.unique("group")}
    lacking = sorted(everywhere - set(corpus[split].unique("group")))
    if lacking:
        text = "the split %s has no utterance of %s, which other splits have: its figures say nothing about them"
        logger.warning(text, split, first_few(lacking))
    return lacking


def evaluate_sap(
    systems: Mapping[str, list[str]], references: References, *, num_bootstrap: int, seed: int, worst: int
) -> tuple[dict, list[dict]]:
    """Score every system as the challenge does, and compare each with those before it; see `evaluate`.

    Args:
        references: from `sap_references`.
    Returns:
        the same as `evaluate`, with CER first, `rate` for the plot, and `scorer` (its name, source and version).
    """
    counts = {name: sap_counts(texts, references.texts) for name, texts in systems.items()}
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    scored = {
        name: {
            **_figures(counts[name], references, resampling),
            "worst": _worst(texts, references, counts[name], worst),
        }
        for name, texts in systems.items()
    }
    differences = [
        {"a": a, "b": b, **{rate: _difference(counts[a], counts[b], rate, references, resampling) for rate in RATES}}
        for a, b in combinations(systems, 2)
    ]
    return {
        "scorer": SCORER,
        "rate": RATES[0],
        "references": {
            "utterances": len(references.ids),
            "speakers": references.units and len(set(references.units)),
            "groups": dict(sorted(Counter(references.groups).items())),
        },
        "systems": scored,
        "differences": differences,
        "bootstrap": resampling_of(references, num_bootstrap, seed),
    }, _utterances(systems, references, counts)


def _figures(counts: dict[str, np.ndarray], references: References, resampling: dict) -> dict:
    """The rates of a system on all utterances, and in `per_group` on those of each group."""
    groups = np.array(references.groups)

    def figures(rows: np.ndarray) -> dict:
        units = references.units and [references.speakers[i] for i in np.flatnonzero(rows)]
        return score_sap({name: column[rows] for name, column in counts.items()}, units, **resampling)

    everywhere = figures(np.full(len(groups), True))
    return {**everywhere, "per_group": {str(group): figures(groups == group) for group in np.unique(groups)}}


def _worst(texts: list[str], references: References, counts: dict[str, np.ndarray], most: int) -> list[dict]:
    """The utterances with the most character errors of a system; of equals the shortest ones."""
    errors = counts["cer_errors"]
    length = counts["cer_length"]
    order = sorted(np.flatnonzero(errors), key=lambda i: (-errors[i], length[i]))
    return [
        {
            "id": references.ids[i],
            "group": references.groups[i],
            "errors": float(errors[i]),
            "reference_characters": float(length[i]),
            "references": references.texts[i],
            "prediction": texts[i],
        }
        for i in order[:most]
    ]


def _utterances(
    systems: Mapping[str, list[str]], references: References, counts: Mapping[str, dict[str, np.ndarray]]
) -> list[dict]:
    """A row per utterance with the text of each system, those with the most character errors first."""
    rows = [
        {
            "id": references.ids[i],
            "speaker_id": references.speakers[i],
            "group": references.groups[i],
            "references": references.texts[i],
            "errors": {name: {rate: float(counts[name][f"{rate}_errors"][i]) for rate in RATES} for name in systems},
            "predictions": {name: texts[i] for name, texts in systems.items()},
        }
        for i in range(len(references.ids))
    ]
    return sorted(rows, key=lambda row: -sum(errors["cer"] for errors in row["errors"].values()))


def _difference(a: dict, b: dict, rate: str, references: References, resampling: dict) -> dict:
    pair = [{"errors": counts[f"{rate}_errors"], "reference_words": counts[f"{rate}_length"]} for counts in (a, b)]
    found = paired_bootstrap(*pair, references.units, **resampling)
    return {"difference": found["difference"], "interval": found["interval"]}


def sap_tables(result: dict) -> list[Table]:
    """A table of rates per system, CER first, and one of the differences between systems."""
    unit = result["bootstrap"]["unit"]
    scorer = result["scorer"]
    shown = []
    for name, figures in result["systems"].items():
        table = Table(
            title=f"{escape(name)}: error rates (%), scorer {scorer['name']} {scorer['version']}",
            caption=f"in brackets: 95 % bootstrap over {unit}s; the better of two references, clipped per utterance",
        )
        add_groups(table, [rate.upper() for rate in RATES], figures["per_group"].items(), figures, RATES)
        shown.append(table)
    if result["differences"]:
        table = Table(title="Differences (points)", caption=f"95 % paired bootstrap over {unit}s")
        for heading in ("system", "minus", *(word for rate in RATES for word in (rate.upper(), "interval"))):
            table.add_column(heading)
        for line in result["differences"]:
            cells = [
                text
                for rate in RATES
                for text in (percent(line[rate]["difference"]), interval(line[rate]["interval"]))
            ]
            table.add_row(escape(line["b"]), escape(line["a"]), *cells)
        shown.append(table)
    return shown


def sap_ids(ids: Iterable[str]) -> dict[str, str]:
    """The challenge's id of each utterance, the name of its file; ours has the speaker's folder before it.

    Where two files have one name, ours stays.
    """
    names = {name: name.rpartition("/")[2] for name in ids}
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def read_hypotheses(path: str | Path, ids: list[str], **wanted) -> dict[str, str]:
    """Text by id of ours, from JSON lines, or from a CSV of the challenge with its own ids or ours.

    Args:
        wanted: `target` and `g2p` of `read_transcripts`, for JSON lines.
    Raises:
        UserError: the CSV lacks a column, a row has no text, or an id is there twice; see also `read_transcripts`.
    """
    if Path(path).suffix.lower() != ".csv":
        return read_transcripts(path, **wanted)
    ours = {theirs: name for name, theirs in sap_ids(ids).items()}
    found: dict[str, str] = {}
    csv.field_size_limit(MANY)
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if missing := {ID, TEXT} - set(rows.fieldnames or ()):
                raise UserError(
                    f"{path} lacks the column {min(missing)}; it has {', '.join(rows.fieldnames or ()) or 'nothing'}; "
                    f"a file of hypotheses has the columns {ID} and {TEXT}"
                )
            for row in rows:
                if None in row:  # what is left of the line after the last column
                    raise UserError(
                        f"{path}, line {rows.line_num}: there are more fields than columns; put texts with commas "
                        "between double quotes"
                    )
                name = ours.get(row[ID].strip(), row[ID].strip())
                if row[TEXT] is None or name in found:
                    problem = "has no text" if row[TEXT] is None else "is there twice"
                    raise UserError(f"{path}, line {rows.line_num}: the id {row[ID]} {problem}; write each id once")
                found[name] = row[TEXT]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as CSV: {error}; save it as CSV in UTF-8") from error
    return found


def write_hypotheses(path: str | Path, texts: Mapping[str, str]) -> None:
    """Write the CSV that the challenge's scorer reads, from texts by id of ours."""
    theirs = sap_ids(texts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([ID, TEXT])
        rows.writerows([theirs[name], text] for name, text in texts.items())
