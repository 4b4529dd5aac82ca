"""Yardsticks of units against phone alignments: PNMI, purities, ABX, bitrate, robustness, and their intervals."""

from hf_components.units.evaluation.alignments import SILENCES, align_segments, read_alignments
from hf_components.units.evaluation.report import figures_of, figures_table, plot_figures
from hf_components.units.evaluation.robustness import load_units_model, robustness, sampled_audio
