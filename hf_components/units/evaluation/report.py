"""Figures of units as `results.json`, as a plot, and as a table."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from hf_components.reporting import PALETTE, percent
from hf_components.runtime import visible
from hf_components.units.evaluation.abx import TASKS, abx_error
from hf_components.units.evaluation.frames import bitrate, frame_figures

SHOWN = {
    "pnmi": "PNMI",
    "phone_purity": "phone purity",
    "cluster_purity": "cluster purity",
    "abx_within": "ABX error within speakers",
    "abx_across": "ABX error across speakers",
    "bitrate": "bitrate (bit/s)",
}
BY_CHANCE = 0.5  # of ABX


def figures_of(segments: Sequence[dict], *, max_tokens: int, num_bootstrap: int, seed: int) -> dict:
    """All figures of units that need no audio.

    Args:
        segments: rows of `align_segments`.
        max_tokens: most tokens of a triphone and speaker in ABX.
    Returns:
        the figures by name; `intervals` of each; `reasons` why one is missing; `abx`: what each of its tasks compared;
        numbers of `segments` and `recordings`.
    """
    resampling = {"num_bootstrap": num_bootstrap, "seed": seed}
    figures, intervals = frame_figures(segments, **resampling)
    figures["bitrate"], intervals["bitrate"] = bitrate(segments, **resampling)
    abx = {task: abx_error(segments, task, max_tokens, num_bootstrap, seed) for task in TASKS}
    reasons = {}
    for task, found in abx.items():
        name = f"abx_{task}"
        figures[name] = found["error"]
        intervals[name] = found.pop("interval")
        if found["reason"]:
            reasons[name] = found["reason"]
    recordings = len({row["source_file"] for row in segments})
    if recordings < 2:
        reasons["intervals"] = "one recording says nothing about others"
    counts = {"segments": len(segments), "recordings": recordings}
    return {**figures, **counts, "intervals": intervals, "reasons": reasons, "abx": abx}


def figures_table(results: dict) -> Table:
    """A row per figure: value, interval, and what chance gives."""
    table = Table(
        title=f"{results['units']['num_units']} units of {results['units']['encoder']}"
        + (f", layer {results['units']['layer']}" if results["units"]["layer"] else ""),
        caption=f"{results['segments']} segments of {results['recordings']} recordings, {results['frames']} frames "
        f"with {results['phones']} phones; in brackets: 95 % bootstrap over recordings",
    )
    table.add_column("figure")
    for name in ("value", "interval", "by chance"):
        table.add_column(name, justify="right")
    chance = {"pnmi": results["pnmi_by_chance"], "abx_within": BY_CHANCE, "abx_across": BY_CHANCE}
    for name, label in SHOWN.items():
        row = [_number(results[name], name), _interval(results["intervals"][name], name)]
        table.add_row(label, *row, _number(chance.get(name), name) if name in chance else "")
    for name, value in results["robustness"].items():
        bounds = results["intervals"][f"robustness {name}"]
        table.add_row(f"unit edit distance, {name}", _number(value, name), _interval(bounds, name), "")
    return table


def _number(value: float | None, name: str) -> str:
    return "-" if value is None else f"{value:.0f}" if name == "bitrate" else f"{value:.3f}"


def _interval(bounds: list[float] | None, name: str) -> str:
    return "-" if bounds is None else f"[{_number(bounds[0], name)}, {_number(bounds[1], name)}]"


def plot_figures(file: Path, results: dict) -> None:
    """Plot all figures that are shares, in per cent, with their intervals."""
    values = {label: (results[name], results["intervals"][name]) for name, label in SHOWN.items() if name != "bitrate"}
    values |= {
        f"edits, {name}": (value, results["intervals"][f"robustness {name}"])
        for name, value in results["robustness"].items()
    }
    values = {label: found for label, found in values.items() if found[0] is not None}
    figure = Figure(figsize=(7, 1 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    for place, (value, bounds) in enumerate(values.values()):
        low, high = bounds or (value, value)
        axes.barh(place, 100 * value, color=PALETTE[0])
        axes.hlines(place, 100 * low, 100 * high, color="0.25", linewidth=1)
        axes.text(100 * max(value, high) + 1, place, percent(value), fontsize=8, va="center")
    axes.set(
        xlabel="%", yticks=range(len(values)), title=f"{results['units']['num_units']} units of {name_of(results)}"
    )
    axes.set_yticklabels(list(values))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def name_of(results: dict) -> str:
    """Name of the encoder as plots can show it: `$` would start a formula."""
    return visible(results["units"]["encoder"]).replace("$", r"\$")
