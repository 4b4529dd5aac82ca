"""The output of a benchmark: one file per routing, transcripts, plots, tables, and a line in the index."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
from rich.table import Table

from hf_components.moe.benchmark.routing import TOP_1, Mixture, routing_summary
from hf_components.moe.benchmark.rows import Row
from hf_components.reporting import interval, percent, plot_bars
from hf_components.runtime import (
    UserError,
    atomic_write,
    full_disk_explained,
    parse_record,
    sealed,
    write_json,
    write_json_lines,
)
from hf_components.scoring import RATES

# Beginnings of the names of rows that are in the tables, but not among the bars.
NOT_PLOTTED = ("moe_random", "moe_oracle", "moe_soft", "moe_beta", "moe_speaker", "moe_logits", "moe_mbr", "moe_rover")


def write_benchmark(
    folder: Path, run_id: str, result: dict, mixture: Mixture | None, corpus: datasets.Dataset
) -> None:
    """Write `benchmark_<run_id>_top1.json`; for a mixture of k experts also `benchmark_<run_id>_topk<k>.json`.

    The two differ only in the router's own row. A mixture also gets `gating_<run_id>_<routing>.jsonl` for each.
    """
    if mixture is None:
        write_json(folder / f"benchmark_{run_id}_{TOP_1}.json", result)
        return
    for key, row in mixture.routed.items():
        others = {other.name for other in mixture.routed.values()} - {row.name}
        write_json(
            folder / f"benchmark_{run_id}_{key}.json",
            {
                **result,
                "rows": {name: figures for name, figures in result["rows"].items() if name not in others},
                "differences": [line for line in result["differences"] if line["b"] not in others],
                "routing": routing_summary(mixture, key, corpus),
            },
        )
        write_json_lines(folder / f"gating_{run_id}_{key}.jsonl", _gates_of(mixture, key, corpus))


def write_transcripts(file: Path, rows: list[Row], corpus: datasets.Dataset) -> None:
    """Write one JSON line per utterance: the reference and the text of each system."""
    write_json_lines(
        file,
        (
            {
                "id": row["id"],
                "speaker_id": row["speaker_id"],
                "group": row["group"],
                "reference": row["text"],
                **{system.name: system.texts[i] for system in rows},
            }
            for i, row in enumerate(corpus.remove_columns("audio"))
        ),
    )


def plot_benchmark(folder: Path, result: dict) -> None:
    """Plot WER per group and, with a mixture, the use of experts per group."""
    rows = result["rows"]
    sample = result["sample"]
    groups = _groups(rows)
    plot_bars(
        folder / "wer_per_group.png",
        {
            name: [100 * row["per_group"][group]["wer"] for group in groups]
            for name, row in rows.items()
            if not name.startswith(NOT_PLOTTED)
        },
        groups,
        "WER (%)",
        f"WER per group, {sample['utterances']} utterances of the split {sample['split']}",
    )
    if "routing" in result:
        usage = result["routing"]["usage_per_group"]
        plot_bars(
            folder / "routing_per_group.png",
            {
                f"expert {i}": [100 * usage[group][i] for group in groups]
                for i in range(len(result["routing"]["usage"]))
            },
            groups,
            "utterances (%)",
            f"Experts that the router chooses, split {sample['split']}",
        )


def difference_matrix(result: dict) -> tuple[list[str], dict[str, list[dict | None]]]:
    """Names of the baselines (a); for every other system (b) its comparison with each baseline, or None."""
    baselines = list(dict.fromkeys(line["a"] for line in result["differences"]))
    compared = {(line["a"], line["b"]): line for line in result["differences"]}
    systems = dict.fromkeys(line["b"] for line in result["differences"])
    return baselines, {b: [compared.get((a, b)) for a in baselines] for b in systems}


def summary_tables(result: dict) -> list[Table]:
    """WER with its interval per system, differences with the baselines, WER per system and group, routing."""
    sample = result["sample"]
    rows = result["rows"]
    where = f"{sample['utterances']} utterances of {sample['speakers']} speakers, split {sample['split']}"
    tables = [_overall_table(rows, where)]
    if result["differences"]:
        tables.append(_differences_table(result, where))
    groups = _groups(rows)
    per_group = _table("WER (%) per group", ["system"], groups)
    for name, row in rows.items():
        per_group.add_row(name, *(percent(row["per_group"][group]["wer"]) for group in groups))
    tables.append(per_group)
    if all("sap" in row for row in rows.values()):
        tables.append(_sap_table(rows))
    if "routing" in result:
        tables.append(_routing_table(result["routing"]))
    return tables


def add_to_index(index: Path, files: Iterable[Path]) -> None:
    """Append one line per benchmark file to `index`, which is replaced as a whole file.

    A file that the index already has with the same content is skipped, so a resumed run adds only what is missing.

    Raises:
        UserError: the index is damaged, or the disk is full.
    """
    remedy = "it is not an index of benchmarks: move it and run the same command again"
    try:
        lines = index.read_text(encoding="utf-8").split("\n") if index.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{index} cannot be read; {remedy}") from error
    lines = [line for line in lines if line]
    known = {
        parse_record(line, {"sha256": str}, f"{index}, line {number},", remedy)["sha256"]
        for number, line in enumerate(lines, 1)
    }
    added = []
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest not in known:
            result = json.loads(file.read_text(encoding="utf-8"))
            added.append(
                json.dumps(
                    sealed(
                        {
                            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                            "file": file.relative_to(index.parent).as_posix(),
                            "sha256": digest,
                            "run_id": result["run_id"],
                            "sample": result["sample"],
                            "wer": {name: row["wer"] for name, row in result["rows"].items()},
                        }
                    ),
                    ensure_ascii=False,
                )
            )
    if added:
        with full_disk_explained(index), atomic_write(index) as temporary:
            temporary.write_text("\n".join([*lines, *added]) + "\n", encoding="utf-8")


def copy_result(source: Path, target: Path, flag: str) -> None:
    """Copy a file of the benchmark to the path that was given by `flag`.

    Raises:
        UserError: the file cannot be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as temporary:
            temporary.write_bytes(source.read_bytes())
    except OSError as error:
        raise UserError(f"cannot write {flag} {target}: {error.strerror}; the result is in {source}") from error


def _gates_of(mixture: Mixture, key: str, corpus: datasets.Dataset) -> Iterator[dict]:
    weights = mixture.weights[key]
    for i, row in enumerate(corpus.select_columns(["id", "speaker_id", "group"])):
        experts = sorted(weights[i].nonzero()[0].tolist(), key=lambda expert: -weights[i, expert])  # heaviest first
        yield {
            **row,
            "gates": _rounded(mixture.gates[i]),
            "experts": experts,
            "weights": _rounded(weights[i, experts]),
            "oracle_expert": int(mixture.oracle[i]),
            "random_expert": int(mixture.random[i]),
        }


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _groups(rows: dict[str, dict]) -> list[str]:
    return sorted(next(iter(rows.values()))["per_group"])


def _table(title: str, names: list[str], figures: list[str], caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption)
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in figures:
        table.add_column(heading, justify="right")
    return table


def _overall_table(rows: dict[str, dict], where: str) -> Table:
    table = _table(
        f"WER (%) on {where}",
        ["system", "context"],
        ["decodes", "WER", "interval", "CER", "RTF"],
        "decodes: passes of the decoder over an utterance; interval: 95 % bootstrap over speakers; RTF: wall seconds "
        "from audio bytes to text per second of audio",
    )
    for name, row in rows.items():
        table.add_row(
            name,
            row["audio_context"],
            str(row["decodes"]),
            percent(row["wer"]),
            interval(row["wer_interval"]),
            percent(row["cer"]),
            f"{row['real_time_factor']:.3f}",
        )
    return table


def _differences_table(result: dict, where: str) -> Table:
    baselines, matrix = difference_matrix(result)
    bootstrap = result["bootstrap"]
    table = _table(
        f"WER minus that of a baseline (points) on {where}",
        ["system"],
        baselines,
        f"in brackets: 95 % paired bootstrap over speakers, {bootstrap['resamples']} resamples, "
        f"seed {bootstrap['seed']}; an interval that contains 0 shows no difference",
    )
    for name, lines in matrix.items():
        cells = (
            "" if line is None else f"{percent(line['difference'])} ({interval(line['interval'])})" for line in lines
        )
        table.add_row(name, *cells)
    return table


def _sap_table(rows: dict[str, dict]) -> Table:
    table = _table(
        "CER and WER (%) by the rules of the SAP challenge",
        ["system"],
        ["CER", "interval", "WER", "interval"],
        "of two references, with and without disfluencies, the nearer one counts",
    )
    for name, row in rows.items():
        cells = [(percent(row["sap"][rate]), interval(row["sap"][f"{rate}_interval"])) for rate in RATES]
        table.add_row(name, *cells[0], *cells[1])
    return table


def _routing_table(routing: dict) -> Table:
    shares = {
        name: percent(routing[name])
        for name in ("oracle_chosen", "as_good_as_oracle", "as_good_by_chance", "disagreement", "oracle_wer")
    }
    table = _table(
        "Routing, top-1 (%)",
        ["expert"],
        [str(i) for i in range(len(routing["usage"]))],
        f"the router takes the oracle's expert on {shares['oracle_chosen']} % of the utterances, and one with as few "
        f"errors on {shares['as_good_as_oracle']} %; at random that would be {shares['as_good_by_chance']} %; "
        f"the texts of two experts differ by {shares['disagreement']} % of their words, and the oracle's WER is "
        f"{shares['oracle_wer']} %",
    )
    table.add_row("utterances", *map(percent, routing["usage"]))
    table.add_row("WER alone", *map(percent, routing["wer_of_each_expert"]))
    return table
