"""How the units are used in each split: a table and a plot."""

from pathlib import Path

from rich.table import Table

from hf_components.reporting import plot_curves

COLUMNS = {
    "segments": "d",
    "frames": "d",
    "entropy": ".2f",
    "perplexity": ".1f",
    "frames_per_run": ".2f",
    "inertia_per_frame": ".3f",
}


def usage_table(identity: dict, splits: dict[str, dict], caption: str | None = None) -> Table:
    """A row per split; `splits` is what `write_units` returns."""
    table = Table(
        title=f"{identity['num_units']} units of {identity['encoder']}"
        + (f", layer {identity['layer']}" if identity["layer"] else ""),
        caption=caption,
    )
    table.add_column("split")
    for name in (*COLUMNS, "dead units"):
        table.add_column(name.replace("_", " "), justify="right")
    for split, found in splits.items():
        table.add_row(
            split, *(format(found[name], form) for name, form in COLUMNS.items()), str(len(found["dead_units"]))
        )
    return table


def plot_usage(file: Path, splits: dict[str, dict], title: str) -> None:
    """Plot the share of the frames of each unit, the most used first."""
    curves = {
        split: sorted((100 * n / found["frames"] for n in found["usage"]), reverse=True)
        for split, found in splits.items()
    }
    plot_curves(file, curves, "unit, the most used first", "share of frames (%)", title)
