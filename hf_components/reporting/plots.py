"""Plots as PNG files. They use matplotlib's object interface, without a window system or global state."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from matplotlib import mlab
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_components.runtime import visible

# Okabe and Ito (https://jfly.uni-koeln.de/color/): people with any kind of colour vision can distinguish them. Yellow
# is left out: it is too pale on white. Beyond seven series the markers or lines change as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "^", "s", "X", "D")
LINES = ("-", "--", ":")
MARKED = 10  # a curve with fewer points has marks: a line of a single point is invisible
MAX_POINTS = 5000
SAMPLING_RATE = 16_000
DYNAMIC_RANGE = 70  # dB; bins this far below the loudest one are black in a spectrogram


def drawn_points(count: int) -> np.ndarray:
    """Indices of the points that a scatter plot draws: at most 5000 of `count`, in a random order that is always the
    same. Utterances are sorted by group, and in that order the last groups would cover the others."""
    return np.random.default_rng(0).permutation(count)[:MAX_POINTS]


def plot_clusters(
    file: str | Path,
    points: np.ndarray,
    drawn: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str],
    title: str = "",
    axis_name: str = "principal component",
) -> None:
    """Two panels of the same points, coloured by cluster and by group.

    Args:
        file: path of the PNG.
        points: coordinates of the drawn utterances, (drawn utterances, 2).
        drawn: indices of the drawn utterances, see `drawn_points`.
        labels: cluster name of every utterance, drawn or not: the legend counts them.
        groups: group name of every utterance.
        title: title of the figure.
        axis_name: name of the two axes, to which a number is added.
    """
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_label(title))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _scatter(left, points, drawn, np.asarray(labels), "by cluster")
    _scatter(right, points, drawn, np.asarray(groups), "by group")
    for axes in (left, right):
        axes.set_xlabel(f"{axis_name} 1")
    left.set_ylabel(f"{axis_name} 2")
    figure.savefig(file, dpi=120)


def _scatter(axes: Axes, points: np.ndarray, drawn: np.ndarray, names: np.ndarray, title: str) -> None:
    for index, name in enumerate(np.unique(names)):
        x, y = points[names[drawn] == name].T
        axes.scatter(
            x,
            y,
            s=18 if len(points) > 500 else 30,
            alpha=0.75,
            linewidths=0,
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
            label=f"{_label(name)} ({np.count_nonzero(names == name)})",
        )
    axes.set_title(_label(title))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=9)


def plot_curves(
    file: str | Path,
    curves: dict[str, Sequence[float]],
    x_label: str,
    y_label: str,
    title: str,
    x: Sequence[float] | None = None,
) -> None:
    """Plot named curves over `x` (1, 2, ... by default) and save a PNG. Of a curve with few points each has a mark.

    Args:
        curves: values by name; a value that is no number leaves no gap.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(curves.items()):
        points = np.array([range(1, len(values) + 1) if x is None else x, values], dtype=float)
        points = points[:, np.isfinite(points[1])]
        axes.plot(
            *points,
            label=_label(name),
            color=PALETTE[i % len(PALETTE)],
            linestyle=LINES[i // len(PALETTE) % len(LINES)],
            marker=MARKERS[i % len(MARKERS)] if points.shape[1] < MARKED else "",
        )
    axes.set(xlabel=x_label, ylabel=y_label, title=_label(title))
    if x is not None and len(x) < MARKED and all(float(value).is_integer() for value in x):
        axes.set_xticks(x)  # else half a sentence, or half an epoch
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def plot_bars(
    file: str | Path,
    series: dict[str, Sequence[float]],
    categories: Sequence[str],
    y_label: str,
    title: str,
    intervals: dict[str, Sequence[Sequence[float] | None]] | None = None,
) -> None:
    """Plot bars with their values, a group per category and a bar per series, and save a PNG.

    Args:
        intervals: interval [low, high] of each value, drawn as a line; None for a value without one.
    """
    width = 0.8 / len(series)
    figure = Figure(figsize=(max(7.0, 0.55 * len(series) * len(categories)), 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(series.items()):
        positions = np.arange(len(categories)) + (i - (len(series) - 1) / 2) * width
        axes.bar(positions, values, 0.92 * width, label=_label(name), color=PALETTE[i % len(PALETTE)])
        bounds = [
            of or (value, value)
            for value, of in zip(values, intervals[name] if intervals else repeat(None), strict=False)
        ]
        axes.vlines(positions, *zip(*bounds, strict=True), color="0.25", linewidth=1)
        for position, value, (_, high) in zip(positions, values, bounds, strict=True):
            axes.text(position, max(value, high), f"{value:.0f}", fontsize=7, ha="center", va="bottom")
    axes.set(ylabel=y_label, title=_label(title), xticks=range(len(categories)))
    axes.set_xticklabels(list(map(_label, categories)))
    if len(series) > 1:
        columns = min(3, len(series))
        axes.legend(frameon=False, fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def plot_histogram(
    file: str | Path, edges: Sequence[float], counts: Sequence[int], x_label: str, y_label: str, title: str
) -> None:
    """Plot a histogram and save a PNG; there is one more edge than counts."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True, color=PALETTE[0])
    axes.set(xlabel=x_label, ylabel=y_label, title=_label(title))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def plot_reliability(file: str | Path, parts: dict[str, list[dict[str, float]]], title: str) -> None:
    """Plot accuracy over confidence (Guo et al. 2017) and save a PNG. Points below the diagonal are overconfident.

    Args:
        parts: name -> bins with `confidence`, `accuracy`, and `share` of the utterances, shown as the area of a point.
    """
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for i, (name, bins) in enumerate(parts.items()):
        x, y, share = ([row[key] for row in bins] for key in ("confidence", "accuracy", "share"))
        color = PALETTE[i % len(PALETTE)]
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=color, linewidth=1, alpha=0.5)
        axes.scatter(
            x,
            y,
            s=[10 + 200 * value for value in share],
            color=color,
            marker=marker,
            alpha=0.8,
            linewidths=0,
            label=_label(name),
        )
    axes.set(
        xlabel="confidence (greatest gate)", ylabel="accuracy", title=_label(title), xlim=(0, 1), ylim=(-0.02, 1.02)
    )
    axes.grid(alpha=0.3)
    for handle in axes.legend(frameon=False, fontsize=9).legend_handles:
        handle.set_sizes([30])
    figure.savefig(file, dpi=120)


def plot_spectrograms(file: str | Path, waveforms: dict[str, np.ndarray], title: str = "") -> None:
    """Plot spectrograms of named waveforms (samples,) at 16 kHz, with common scales of time and loudness, to a PNG."""
    figure = Figure(figsize=(10, 2.4 * len(waveforms) + 0.6), layout="constrained")
    figure.suptitle(_label(title))
    rows = figure.subplots(len(waveforms), 1, sharex=True, squeeze=False)[:, 0]
    levels = {
        name: 10 * np.log10(mlab.specgram(waveform, NFFT=512, noverlap=512 - 160, Fs=SAMPLING_RATE)[0] + 1e-20)
        for name, waveform in waveforms.items()
    }  # (bins, frames) each
    loudest = max(level.max() for level in levels.values())
    for axes, (name, level) in zip(rows, levels.items(), strict=True):
        seconds = len(waveforms[name]) / SAMPLING_RATE
        image = axes.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, SAMPLING_RATE / 2000),
            cmap="magma",
            vmin=loudest - DYNAMIC_RANGE,
            vmax=loudest,
        )
        axes.set(ylabel="kHz", title=_label(name))
    rows[-1].set(xlabel="seconds", xlim=(0, max(map(len, waveforms.values())) / SAMPLING_RATE))
    figure.colorbar(image, ax=rows, label="dB")
    figure.savefig(file, dpi=100)


def _label(text: object) -> str:
    """Text that matplotlib draws as it is: names of speakers and groups may hold dollars, which begin formulas."""
    return visible(text, keep="\n").replace("$", r"\$")
