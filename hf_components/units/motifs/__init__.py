"""Motifs, which are runs of units that recur: learn them, count them, and show them to linguists."""

from hf_components.units.motifs.analysis import list_motifs, measure_compression, plot_motifs
from hf_components.units.motifs.annotations import tiers_of_hits, tiers_of_recordings, write_eaf, write_textgrid
from hf_components.units.motifs.bpe import Motifs, find_occurrences, save_motifs, train_motifs
from hf_components.units.motifs.clips import Clips
from hf_components.units.motifs.concordance import build_concordance
from hf_components.units.motifs.corrections import corrected, read_tiers
from hf_components.units.motifs.decisions import Decisions
from hf_components.units.motifs.page import write_page
