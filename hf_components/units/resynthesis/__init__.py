"""Evaluate a unit vocoder: speak segments from their units, and compare them with the originals by figures and ear."""

from hf_components.units.resynthesis.measuring import hear, measure_segment, resynthesise, shuffled, units_of
from hf_components.units.resynthesis.page import write_page
from hf_components.units.resynthesis.speaking import pitches_of, speak, voices_of
from hf_components.units.resynthesis.summary import summarise, table
from hf_components.units.resynthesis.voices import compare_voices, other_voices
