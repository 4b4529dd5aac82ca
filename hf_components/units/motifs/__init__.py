"""Runs of units that recur: learned, counted, and shown to linguists."""

from hf_components.units.motifs.analysis import describe_motifs, measure_compression, plot_motifs
from hf_components.units.motifs.annotations import tiers_of_recordings, write_eaf, write_textgrid
from hf_components.units.motifs.bpe import Motifs, find_occurrences, save_motifs, train_motifs
from hf_components.units.motifs.concordance import build_concordance

__all__ = [
    "Motifs",
    "build_concordance",
    "describe_motifs",
    "find_occurrences",
    "measure_compression",
    "plot_motifs",
    "save_motifs",
    "tiers_of_recordings",
    "train_motifs",
    "write_eaf",
    "write_textgrid",
]
