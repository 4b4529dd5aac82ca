"""Plots, tables, and the format of figures."""

from hf_components.reporting.figures import interval, percent
from hf_components.reporting.plots import (
    PALETTE,
    drawn_points,
    plot_bars,
    plot_clusters,
    plot_curves,
    plot_histogram,
    plot_reliability,
    plot_spectrograms,
)
from hf_components.reporting.tables import show
